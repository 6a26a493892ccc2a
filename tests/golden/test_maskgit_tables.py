"""What the original masked token trainer computes beside the network: schedules, averages, Lion, masks."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from dioscuri import schedules
from dioscuri.families.token_models.masking_options import Masking
from jax_impl.objectives import masked_tokens as jax_losses
from jax_impl.objectives import masking as jax_masking
from jax_impl.optim.optimizers import lion as jax_lion
from tests.golden.recorded import cases
from tests.support.tiny_maskgit import tiny
from torch_impl.objectives import masked_tokens as torch_losses
from torch_impl.objectives import masking as torch_masking
from torch_impl.optim.optimizers import lion as torch_lion

TABLES = ("maskgit", "tables")
TWINS = {
    "torch": (torch.from_numpy, torch_masking, torch_losses, torch_lion),
    "jax": (jnp.asarray, jax_masking, jax_losses, jax_lion),
}
SIDE, MASK_ID = 8, 39


@pytest.fixture
def recorded(folder):
    return [dict(np.load(folder / f"{name}.npz")) for name in ("inputs", "outputs")]


def of_prefix(outputs, prefix):
    found = {name.removeprefix(prefix): array for name, array in outputs.items() if name.startswith(prefix)}
    assert found
    return found


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("twin", TWINS)
@pytest.mark.parametrize(("folder", "case"), cases(TABLES))
def test_mask_schedules(case, recorded, twin):
    inputs, outputs = recorded
    to_twin, masking, *_ = TWINS[twin]
    for name, expected in of_prefix(outputs, "sched:").items():
        if name == "sigmoid_s0_e3_tau0.8":
            close(schedules.mask_ratio("sigmoid", inputs["t"], start=0, end=3, tau=0.8), expected)
            continue
        assert schedules.mask_power(name) == (float(name[3:]) if name.startswith("pow") else None)
        close(schedules.mask_ratio(name, inputs["t"]), expected)
        close(masking.mask_ratio(name, to_twin(inputs["t"])), expected)


@pytest.mark.parametrize(("folder", "case"), cases(TABLES))
def test_learning_rates(case, recorded):
    inputs, outputs = recorded
    base = replace(
        tiny().optimizer, learning_rate=3e-4, warmup_steps=8.0, decay_start=8, decay_steps=42, power=2.0
    )
    names = {"cosine": "half_cosine"}
    changes = {
        "constant": {"warmup_steps": 0.0, "learning_rate_scheme": "constant_with_warmup"},
        "cosine_with_restarts": {"num_cycles": 3.0},
        "polynomial": {"min_learning_rate": 1e-7},
    }
    for name, expected in of_prefix(outputs, "lr:").items():
        options = replace(base, **{"learning_rate_scheme": names.get(name, name), **changes.get(name, {})})
        found = [schedules.learning_rate(int(step), options) for step in inputs["lr_steps"]]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-12, err_msg=name)


AVERAGES = {
    "default": {"ema_warmup": "count"},
    "after5_min0.2": {"ema_warmup": "count", "ema_update_after": 5, "ema_min_decay": 0.2},
    "warmup_p2_3": {"ema_warmup": "power"},
    "warmup_g2_p3_4_d0.99": {
        "ema_warmup": "power",
        "ema_inv_gamma": 2.0,
        "ema_power": 0.75,
        "ema_decay": 0.99,
    },
    "every3": {"ema_warmup": "count", "ema_update_every": 3},
    "after4": {"ema_warmup": "count", "ema_update_after": 4},
}


@pytest.mark.parametrize(("folder", "case"), cases(TABLES))
def test_averages(case, recorded):
    inputs, outputs = recorded
    base = replace(tiny().train, ema_decay=0.9999)
    for name, expected in of_prefix(outputs, "ema_decay:").items():
        options = replace(base, **AVERAGES[name])
        close([schedules.ema_decay(int(step) - 1, options) for step in inputs["ema_steps"]], expected)
    for name, expected in of_prefix(outputs, "ema_shadow:").items():
        options, average = replace(base, **AVERAGES[name]), inputs["ema_params"][0]
        for step, parameters in enumerate(inputs["ema_params"][1:]):
            average = average + (1 - schedules.ema_decay(step, options)) * (parameters - average)
            close(average, expected[step])


@pytest.mark.parametrize("twin", TWINS)
@pytest.mark.parametrize(("folder", "case"), cases(TABLES))
def test_lion(case, recorded, twin):
    inputs, outputs = recorded
    to_twin, _, _, lion = TWINS[twin]
    parameters = to_twin(inputs["lion_p0"])
    momentum, second, one = 0 * parameters, 0 * parameters, to_twin(np.float32([1]))
    for step, grad in enumerate(inputs["lion_grads"]):
        moved = lion(to_twin(grad), momentum, second, one, step + 1, 0.9, 0.99, 0.0)
        # PyTorch's twin moves the moments in place.
        direction, momentum, second = moved if isinstance(moved, tuple) else (moved, momentum, second)
        parameters = parameters - 0.01 * (direction + 0.1 * parameters)
        close(np.asarray(parameters), outputs["lion_params"][step])
    assert not np.asarray(second).any()


def region_draws(draws, counts):
    """Uniforms (B, 3) for which a rectangle has the recorded height, row and column."""
    uniforms = []
    for (height, row, column), n in zip(draws.reshape(-1, 3), counts, strict=True):
        low, high = -(-n // SIDE), min(n, SIDE)
        width = min(-(-n // height), SIDE)
        places = ((height - low, high - low + 1), (row, SIDE - height + 1), (column, SIDE - width + 1))
        uniforms.append([(chosen + 0.5) / number for chosen, number in places])
    return np.array(uniforms, np.float32)


MASKS = {
    "plain": {},
    "minrate0.5": {"min_masking_rate": 0.5},
    "contiguous": {"mask_contiguous_region_prob": 1.0},
    "predict_all": {"predict_all_tokens": True},
}


@pytest.mark.parametrize("tag", MASKS)
@pytest.mark.parametrize("twin", TWINS)
@pytest.mark.parametrize(("folder", "case"), cases(TABLES))
def test_masks(case, recorded, twin, tag):
    inputs, outputs = recorded
    to_twin, masking, *_ = TWINS[twin]
    options, expected = replace(Masking(), **MASKS[tag]), of_prefix(outputs, f"mask:{tag}:")
    noise = {"time": inputs[f"mask:{tag}:timesteps"]}
    noise["order"] = inputs.get(f"mask:{tag}:perm_uniform", np.zeros((4, SIDE**2), np.float32))
    if tag == "contiguous":
        counts = np.round(SIDE**2 * expected["mask_prob"]).clip(1).astype(int)
        noise["coin"] = np.zeros(4, np.float32)
        noise["region"] = region_draws(inputs["mask:contiguous:python_draws"][1:], counts)
    arrays = {name: to_twin(array) for name, array in noise.items()}
    found = masking.mask_tokens(to_twin(inputs["mask_image_tokens"]), arrays, options, MASK_ID, MASK_ID)
    np.testing.assert_array_equal(np.asarray(found.inputs), expected["input_ids"])
    np.testing.assert_array_equal(np.asarray(found.labels), expected["labels"])
    close(np.asarray(found.ratio), expected["mask_prob"])
    if tag == "predict_all":
        close(np.asarray(found.weights), expected["loss_weight"])


@pytest.mark.parametrize("twin", TWINS)
@pytest.mark.parametrize(("folder", "case"), cases(TABLES))
def test_soft_targets(case, recorded, twin):
    """The original drops the class token at the front."""
    inputs, outputs = recorded
    to_twin, _, losses, _ = TWINS[twin]
    logits, labels = to_twin(inputs["soft_logits"][:, 1:]), inputs["soft_labels"][:, 1:]
    found = np.asarray(losses.soft_cross_entropy(logits, to_twin(inputs["soft_targets"])))
    close(found[labels != -100].mean(), outputs["soft_target_ce"])
