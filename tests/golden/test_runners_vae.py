"""The tests of the VAE's recorded cases follow the case: skipped updates, and the units of either program."""

from dataclasses import replace
from math import log

import numpy as np
import pytest

from dioscuri.importers.efficient_vdvae_names import mixture_order
from tests.golden import test_efficient_vdvae_training
from tests.golden.changed_cases import Copy, vae, vae_masked
from tests.golden.recorded_vae import Recorded as RecordedVAE
from tests.support.engines import engine_of

RATE = 1e-4


@pytest.mark.parametrize(
    ("path", "twin", "column"),
    [
        ("hierarchical_vae/torch_checkpoint", "torch", (1, 0, 1)),
        ("hierarchical_vae/torch_checkpoint", "jax", (1, 0, 1)),
        ("hierarchical_vae/jax_mol8", "torch", (1, 1, 2)),
    ],
)
def test_skipped_updates_are_those_of_the_case(tmp_path, path, twin, column):
    """The first and third of three steps are skipped; the second must be as if it were alone."""
    copy = Copy(path)
    recorded = RecordedVAE(copy.write(tmp_path))
    norms = [step_alone(recorded, recorded.weights, t, 0)[1]["grad_norm"] for t in range(3)]
    low, middle, high = np.argsort(norms)
    reorder_steps(copy, (middle, low, high))
    write_threshold(copy, (norms[low] + norms[middle]) / 2)
    recorded = RecordedVAE(copy.write(tmp_path))
    # The JAX program counts completed steps: its second step is step 0, its third step 1.
    numbers = (0, 0, 1) if recorded.is_flax else (0, 1, 2)
    _, first = step_alone(recorded, recorded.weights, 0, numbers[0])
    state, second = step_alone(recorded, recorded.weights, 1, numbers[1])
    _, third = step_alone(recorded, state["model"], 2, numbers[2])
    assert third["grad_norm"] > (norms[low] + norms[middle]) / 2
    for t, metrics in enumerate((first, second, third)):
        copy.outputs[f"train_{t}"] = np.array([RATE, *logged(recorded, metrics), column[t]])
    for group, prefix in (("model", "params_after/"), ("ema", "ema_after/")):
        copy.outputs |= original_names(recorded, state[group], prefix)
    copy.outputs = {name: array for name, array in copy.outputs.items() if "opt_state" not in name}
    test_efficient_vdvae_training.test_original_steps(copy.write(tmp_path), twin)


def step_alone(recorded, weights, t, step):
    """State and metrics of a single update from given weights, without skipping, in float64."""
    words = {"gradient_skip": False}
    hparams = replace(
        recorded.hparams,
        optimizer=replace(recorded.hparams.optimizer, **words),
        train=replace(recorded.hparams.train, precision="float64"),
    )
    engine = engine_of("torch", hparams)
    engine.state_from_numpy({"model": weights})
    noise = recorded.latent_noise(f"train{t}", prior=False, posterior=True)
    scalars = {"learning_rate": RATE, **recorded.scalars(step)}
    engine.train_step({"image": recorded.pixels_of(f"train_{t}")}, step, scalars, noise)
    return engine.state_to_numpy(), engine.fetch_metrics()


def logged(recorded, metrics):
    """Columns of a step: reconstruction and divergence in bits per value, gradient norm."""
    bits = recorded.plan.image_dims * log(2)
    kl = sum(metrics[f"kl.{group}"] for group in recorded.groups)
    return metrics["reconstruction"] / bits, kl / bits, metrics["grad_norm"]


def reorder_steps(copy, order):
    """Give step `order[t]` the pictures and noise of step t."""
    inputs = dict(copy.inputs)
    for to, origin in enumerate(order):
        for name, array in inputs.items():
            if name == f"x_{origin}":
                copy.inputs[f"x_{to}"] = array
            elif name.startswith(f"eps_train{origin}_"):
                copy.inputs[name.replace(f"train{origin}", f"train{to}")] = array


def write_threshold(copy, threshold):
    """Skip updates from this norm on."""
    lines = copy.files["hparams.cfg"].decode().splitlines()
    options = {"gradient_skip": True, "gradient_skip_threshold": threshold}
    lines = [
        f"{name} = {options[name]}" if (name := line.partition("=")[0].strip()) in options else line
        for line in lines
    ]
    copy.files["hparams.cfg"] = "\n".join(lines).encode()


def original_names(recorded, state, prefix):
    """Canonical tensors as outputs under their original names, in their layout."""
    return {
        prefix + (key.flax if recorded.is_flax else key.torch): np.float32(
            to_flax_layout(key, state[key.name], recorded.plan) if recorded.is_flax else state[key.name]
        )
        for key in recorded.keys
        if key.name in state
    }


def to_flax_layout(key, array, plan):
    """Canonical tensor -> that of the JAX program."""
    array = array[np.argsort(mixture_order(plan))] if key.mixture_output else array
    if key.kind == "bias":
        return array
    return np.ascontiguousarray(array.transpose((2, 3, 1, 0) if key.kind == "kernel" else (0, 2, 3, 1)))


@pytest.mark.parametrize("logged_in", ["nats", "bits"])
def test_binarised_digits_of_the_jax_program_are_read_in_either_unit(tmp_path, logged_in):
    """The PyTorch program's case, rewritten as the JAX program's: both compute the same."""
    copy = Copy("hierarchical_vae/torch_bernoulli")
    recorded = RecordedVAE(copy.write(tmp_path))
    as_flax(copy, recorded, recorded.plan.image_dims * log(2) if logged_in == "nats" else 1.0)
    case = copy.write(tmp_path)
    vae(case, tmp_path)
    vae_masked(case, tmp_path)
    wrong = copy.outputs["fwd_kl_div_metric"]
    copy.outputs["fwd_kl_div_metric"] = 1.01 * wrong
    with pytest.raises(AssertionError, match="fwd_kl_div_metric"):
        vae(copy.write(tmp_path), tmp_path)


NOT_IN_FLAX = ("fwd64_total_loss", "no_grad_params", "masked_outputs")
"""Outputs that the JAX program's cases lack, or have for pictures that are read differently."""


def as_flax(copy, recorded, unit):
    """Rewrite a case of binarised digits in the JAX program's names, layouts and units of divergences."""
    copy.about["runner"] = "efficient_vdvae_jax"
    names = {key.torch: key.flax for key in recorded.keys}
    copy.about["grad_norm_order"] = [names[name] for name in copy.about["grad_norm_order"]]
    copy.weights = {
        key.flax: to_flax_layout(key, copy.weights[key.torch], recorded.plan) for key in recorded.keys
    }
    copy.inputs = {name: channels_last(array) for name, array in copy.inputs.items()}
    outputs = {name: channels_last(copy.outputs[name]) for name in copy.outputs if "/" not in name}
    for key in recorded.keys:
        if (name := f"grad/{key.torch}") in copy.outputs:
            outputs[f"grad/{key.flax}"] = to_flax_layout(key, copy.outputs[name], recorded.plan)
    kl, average = outputs["fwd_kl"].T
    outputs |= {"fwd_kl": kl, "fwd_avg_kl": average * unit}
    outputs["fwd_kl_div_metric"] = outputs["fwd_gamma_kl"] / log(2) * unit
    outputs["masked_kl_metric"] = outputs.pop("masked_kl_metric_masked")
    copy.outputs = {name: array for name, array in outputs.items() if name not in NOT_IN_FLAX}


def channels_last(array):
    return np.ascontiguousarray(array.transpose(0, 2, 3, 1)) if array.ndim == 4 else array
