"""The original masked token trainer apart from the network: schedules, averages, Lion, masks."""

import re
from dataclasses import replace
from math import isqrt

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from dioscuri import schedules
from dioscuri.families.token_models.masking_options import Masking
from jax_impl.objectives import masked_tokens as jax_losses
from jax_impl.objectives import masking as jax_masking
from jax_impl.optim.optimizers import lion as jax_lion
from tests.golden.recorded import cases, tagged_cases
from tests.support.tiny_maskgit import tiny
from torch_impl.objectives import masked_tokens as torch_losses
from torch_impl.objectives import masking as torch_masking
from torch_impl.optim.optimizers import Moments
from torch_impl.optim.optimizers import lion as torch_lion

KINDS = (TABLES,) = [("maskgit", "tables")]


def torch_directions(zeros, beta1, beta2):
    """A function from successive gradients to Lion's directions."""
    moments = Moments(torch.ones(1), zeros.clone(), zeros.clone())
    return lambda grad: torch_lion(grad, moments, torch.ones(1), beta1, beta2, 0.0)


def jax_directions(zeros, beta1, beta2):
    """The same with optax."""
    rule = jax_lion(beta1, beta2, 0.0)
    states = [rule.init(zeros)]

    def direction(grad):
        updates, states[0] = rule.update(grad, states[0])
        return updates

    return direction


TWINS = {
    "torch": (torch.from_numpy, torch_masking, torch_losses, torch_directions),
    "jax": (jnp.asarray, jax_masking, jax_losses, jax_directions),
}
OPEN_MUSE_DECAY = 0.9999
"""Decay of `EMAModel`, unless a name states another."""


@pytest.mark.parametrize("twin", TWINS)
@pytest.mark.parametrize(("case", "name"), tagged_cases("sched:(.+)", TABLES))
def test_mask_schedules(case, name, twin):
    to_twin, masking, *_ = TWINS[twin]
    t, expected = case.inputs["t"], f"sched:{name}"
    if match := re.fullmatch(r"sigmoid_s(.+)_e(.+)_tau(.+)", name):
        start, end, tau = map(float, match.groups())
        case.close(schedules.mask_ratio("sigmoid", t, start=start, end=end, tau=tau), expected)
        return
    assert schedules.mask_power(name) == (float(name[3:]) if name.startswith("pow") else None)
    case.close(schedules.mask_ratio(name, t), expected)
    case.close(masking.mask_ratio(name, to_twin(t)), expected)


@pytest.mark.parametrize("case", cases(TABLES))
def test_learning_rates(case):
    rate, warmup, total = map(float, case.said(r"base lr ([\d.e-]+), warmup (\d+), total (\d+)"))
    power, end = map(float, case.said(r"polynomial power (\S+) lr_end ([\d.e-]+)"))
    base = replace(
        tiny().optimizer,
        learning_rate=rate,
        min_learning_rate=0.0,
        warmup_steps=warmup,
        decay_start=int(warmup),
        decay_steps=int(total - warmup),
    )
    changes = {
        "constant": {"warmup_steps": 0.0, "learning_rate_scheme": "constant_with_warmup"},
        "cosine": {"learning_rate_scheme": "half_cosine"},
        "cosine_with_restarts": {"num_cycles": case.number(r"num_cycles (\d+)")},
        "polynomial": {"min_learning_rate": end, "power": power},
    }
    for name in case.of_prefix("lr:"):
        options = replace(base, **{"learning_rate_scheme": name, **changes.get(name, {})})
        found = [schedules.learning_rate(int(step), options) for step in case.inputs["lr_steps"]]
        case.close(found, f"lr:{name}")


def average_options(name):
    """Options of an average from its name, such as after5_min0.2 and warmup_g2_p3_4_d0.99."""
    patterns = {
        "ema_update_after": r"after(\d+)",
        "ema_update_every": r"every(\d+)",
        "ema_min_decay": r"min([\d.]+)",
        "ema_inv_gamma": r"_g([\d.]+)",
        "ema_decay": r"_d([\d.]+)",
    }
    given = {option: re.search(pattern, name) for option, pattern in patterns.items()}
    options = {option: float(match[1]) for option, match in given.items() if match}
    options |= {option: int(options[option]) for option in options if option.startswith("ema_update")}
    if match := re.search(r"_p(\d+)_(\d+)", name):
        options["ema_power"] = int(match[1]) / int(match[2])
    return {"ema_warmup": "power" if name.startswith("warmup") else "count", **options}


@pytest.mark.parametrize("case", cases(TABLES))
def test_averages(case):
    base = replace(tiny().train, ema_decay=OPEN_MUSE_DECAY)
    for name in case.of_prefix("ema_decay:"):
        options = replace(base, **average_options(name))
        found = [schedules.ema_decay(int(step) - 1, options) for step in case.inputs["ema_steps"]]
        case.close(found, f"ema_decay:{name}")
    for name in case.of_prefix("ema_shadow:"):
        options, (average, *parameters) = replace(base, **average_options(name)), case.inputs["ema_params"]
        shadows = []
        for step, parameter in enumerate(parameters):
            average = average + (1 - schedules.ema_decay(step, options)) * (parameter - average)
            shadows.append(average)
        case.close(shadows, f"ema_shadow:{name}")


@pytest.mark.parametrize("twin", TWINS)
@pytest.mark.parametrize("case", cases(TABLES))
def test_lion(case, twin):
    to_twin, _, _, lions = TWINS[twin]
    rate, beta1, beta2, decay = map(
        float, case.said(r"lion: lr ([\d.e-]+), betas \((\S+),(\S+)\), decoupled wd (\S+)")
    )
    parameters, states = to_twin(case.inputs["lion_p0"]), []
    direction_of = lions(0 * parameters, beta1, beta2)
    for grad in case.inputs["lion_grads"]:
        parameters = parameters - rate * (direction_of(to_twin(grad)) + decay * parameters)
        states.append(np.asarray(parameters))
    case.close(states, "lion_params")


def region_draws(draws, counts, side):
    """Noise (B, 3) that gives a rectangle the recorded height, row and column."""
    uniforms = []
    for (height, row, column), n in zip(draws.reshape(-1, 3), counts, strict=True):
        low, high = -(-n // side), min(n, side)
        width = min(-(-n // height), side)
        places = ((height - low, high - low + 1), (row, side - height + 1), (column, side - width + 1))
        uniforms.append([(chosen + 0.5) / number for chosen, number in places])
    return np.array(uniforms, np.float32)


def masking_options(tag):
    """Options by the tag of the recorded masks."""
    if match := re.fullmatch(r"minrate([\d.]+)", tag):
        return replace(Masking(), min_masking_rate=float(match[1]))
    changes = {
        "contiguous": {"mask_contiguous_region_prob": 1.0},
        "predict_all": {"predict_all_tokens": True},
    }
    return replace(Masking(), **({} if tag == "plain" else changes[tag]))


@pytest.mark.parametrize("twin", TWINS)
@pytest.mark.parametrize(("case", "tag"), tagged_cases("mask:(.+):input_ids", TABLES))
def test_masks(case, tag, twin):
    to_twin, masking, *_ = TWINS[twin]
    prefix, tokens = f"mask:{tag}:", case.inputs["mask_image_tokens"]
    B, L = tokens.shape
    mask_id = int(case.number(r"mask id (\d+)"))
    noise = {"time": case.inputs[f"{prefix}timesteps"]}
    noise["order"] = case.inputs.get(f"{prefix}perm_uniform", np.zeros((B, L), np.float32))
    if (draws := f"{prefix}python_draws") in case.inputs:
        counts = np.round(L * case.outputs[f"{prefix}mask_prob"]).clip(1).astype(int)
        noise["coin"] = np.zeros(B, np.float32)
        noise["region"] = region_draws(case.inputs[draws][1:], counts, isqrt(L))
    arrays = {name: to_twin(array) for name, array in noise.items()}
    found = masking.mask_tokens(to_twin(tokens), arrays, masking_options(tag), mask_id, mask_id)
    np.testing.assert_array_equal(np.asarray(found.inputs), case.outputs[f"{prefix}input_ids"])
    np.testing.assert_array_equal(np.asarray(found.labels), case.outputs[f"{prefix}labels"])
    case.close(found.ratio, f"{prefix}mask_prob")
    if (weights := f"{prefix}loss_weight") in case.outputs:
        case.close(found.weights, weights)


@pytest.mark.parametrize("twin", TWINS)
@pytest.mark.parametrize("case", cases(TABLES))
def test_soft_targets(case, twin):
    """The original drops the class token at the front."""
    to_twin, _, losses, _ = TWINS[twin]
    logits, labels = to_twin(case.inputs["soft_logits"][:, 1:]), case.inputs["soft_labels"][:, 1:]
    found = np.asarray(losses.soft_cross_entropy(logits, to_twin(case.inputs["soft_targets"])))
    case.close(found[labels != -100].mean(), "soft_target_ce")
