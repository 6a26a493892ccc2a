"""Both twins reproduce what Metroplex's two programs computed, from imported weights."""

from importlib import import_module
from math import log

import numpy as np
import pytest

from dioscuri import schedules
from tests.golden.recorded import cases
from tests.golden.recorded_metroplex import RUNNERS, Recorded
from tests.support.models import TWINS

TENSORFLOW, FLAX = (("metroplex", runner) for runner in RUNNERS)
SCALARS = {"beta": 1.0, "gamma": 0.0}


@pytest.fixture(params=TWINS)
def made(request, folder, case, tmp_path):
    """The recorded numbers and a twin with their weights."""
    found = Recorded(folder, case, tmp_path)
    return found, found.use(TWINS[request.param])


def check_terms(recorded, found):
    """Divergence of every group, gradients of some parameters and norms of all."""
    for group in recorded.groups:
        recorded.close(found["kl"][:, group], f"kl_sum/{group:02}")
    tol = recorded.case["tol"]["gradients"]
    for original, expected in zip(recorded.case["param_names"], recorded.outputs["grad_l2"], strict=True):
        gradient = found[f"grad/{recorded.name(original)}"]
        floor = tol["abs_floor"] * np.sqrt(gradient.size)
        assert np.linalg.norm(gradient) == pytest.approx(expected, rel=tol["of_max"], abs=floor), original
        if f"grad/{original}" in recorded.outputs:
            expected = recorded.outputs[f"grad/{original}"]
            found_in_layout = as_recorded(gradient, expected)
            recorded.close(found_in_layout, f"grad/{original}", tolerance="gradients")


def as_recorded(gradient, expected):
    """A canonical tensor in the layout of the originals."""
    if gradient.ndim == 4 and expected.ndim == 4 and gradient.shape[0] != 1:
        gradient = gradient.transpose(2, 3, 1, 0)
    elif gradient.ndim == 4 and expected.ndim == 3:
        gradient = gradient[0].transpose(1, 2, 0)
    return gradient.reshape(expected.shape)


@pytest.mark.parametrize(("folder", "case"), cases(TENSORFLOW))
def test_forward_losses_and_gradients(made):
    recorded, twin = made
    found = twin.forward(recorded.picture(), recorded.noise("eps", "posterior"), SCALARS)
    dims = recorded.plan.image_dims
    recorded.close(found["loss"], "elbo")
    recorded.close(found["reconstruction"].mean() / dims, "distortion")
    recorded.close(found["kl"].sum(1).mean() / dims, "rate")
    recorded.close(found["loss"] / log(2), "elbo_bits_per_dim")
    recorded.close(found["features"].transpose(0, 3, 1, 2), "px_z")
    logits = found["output"]
    expected = recorded.outputs["logits"]
    logits = logits if logits.shape == expected.shape else logits[:1, ::2, ::2]
    kept = unshared(recorded.plan)
    recorded.close(logits[..., kept], "logits", expected[..., kept])
    recorded.close(found["divergence.0"].transpose(0, 3, 1, 2), "kl_full/00")
    recorded.close(found[f"divergence.{recorded.groups[-1]}"].transpose(0, 3, 1, 2), "kl_full/last")
    check_terms(recorded, found)


def unshared(plan):
    """Output channels that the rule of `shared_sigma`, which the original applies later, leaves alone."""
    n, channels = plan.n_mixtures, np.arange(plan.head_channels)
    inside = (channels - n) % (3 * n)
    return (channels < n) | (inside < n) | (inside >= 2 * n) | (plan.shared_scale == "none")


@pytest.mark.parametrize(("folder", "case"), cases(TENSORFLOW, output="sample/x"))
def test_sampling(made):
    recorded, twin = made
    temperatures = [recorded.case["sample_temperature"]] * len(recorded.groups)
    found = twin.generate(recorded.noise("sample_eps", "prior"), temperatures)
    recorded.close(found["features"].transpose(0, 3, 1, 2), "sample/px_z")
    noise = {"mixture": recorded.inputs["sample_eps_gumbel"], "logistic": recorded.inputs["sample_u"]}
    values, pictures = twin.read(found["output"], noise, "sample", 1.0)
    recorded.close(values, "sample/x")
    difference = np.abs(pictures.astype(int) - recorded.outputs["sample/uint8"])
    assert difference.max() <= 1
    assert (difference > 0).mean() <= 1e-3


@pytest.mark.parametrize(("folder", "case"), cases(FLAX))
def test_later_program(made):
    recorded, twin = made
    posterior = recorded.noise("eps", "posterior")
    found = twin.forward(recorded.picture(), posterior, SCALARS)
    recorded.close(found["loss"], "loss")
    recorded.close(found["reconstruction"].mean() / recorded.plan.image_dims, "recon_loss")
    recorded.close(found["kl"].sum(1).mean() / recorded.plan.image_dims, "kl")
    recorded.close(found["output"], "px_z")
    recorded.close(found["z.0"], "z/00")
    recorded.close(found[f"z.{recorded.groups[-1]}"], "z/last")
    check_terms(recorded, found)
    gradients = [value for name, value in found.items() if name.startswith("grad/")]
    recorded.close(np.sqrt(sum(np.square(value).sum() for value in gradients)), "grad_norm")
    n = len(recorded.groups)
    drawn = twin.generate(recorded.noise("uncond_eps", "prior"), [0.8] * n)
    check_picture(recorded, twin, drawn["output"], "uncond")
    masks = [np.full(block.variates, float(g < 3)) for g, block in enumerate(recorded.plan.groups)]
    latents = {f"z.{g}": found[f"z.{g}"] for g in recorded.groups}
    partial = twin.generate(recorded.noise("partial_eps", "prior"), [0.1] * n, latents, masks)
    check_picture(recorded, twin, partial["output"], "partial")


def check_picture(recorded, twin, output, name):
    recorded.close(output, f"{name}_px_z")
    pictures = twin.read(output, {}, "mean", 1.0)[1]
    assert np.abs(pictures.astype(int) - recorded.outputs[f"{name}_uint8"]).max() <= 1


def step_cases():
    """Cases with optimiser steps; XLA compiles the large ones for a minute."""
    for case in cases(TENSORFLOW, output="delta_l2"):
        for twin in TWINS:
            slow = twin == "jax" and len(case.values[1]["param_names"]) > 150
            marks = pytest.mark.slow if slow else ()
            yield pytest.param(*case.values, twin, id=f"{case.id}-{twin}", marks=marks)


@pytest.mark.parametrize(("folder", "case", "twin"), [*step_cases()])
def test_original_steps(folder, case, twin, tmp_path):
    """Schedule, clipping, skipping and Adam; the recorded losses are those before an update."""
    recorded = Recorded(folder, case, tmp_path)
    recorded.use(TWINS[twin])
    engine = import_module(f"{twin}_impl.engine").Engine(recorded.hparams)
    engine.state_from_numpy({"model": recorded.weights})
    tol = case["tol"]
    for expected in case["optimizer_steps"]:
        step = expected["step"]
        rate = schedules.learning_rate(step, recorded.hparams.optimizer)
        assert rate == pytest.approx(expected["lr"], rel=1e-5, abs=1e-10)
        # Twice, where the case has one picture: the mean stays, and there is a picture for each device.
        times = 2 // len(recorded.inputs["image_uint8"])
        batch = {"image": recorded.inputs["image_uint8"].repeat(times, 0)}
        noise = {name: array.repeat(times, 0) for name, array in recorded.noise("eps", "posterior").items()}
        engine.train_step(batch, step, {**SCALARS, "learning_rate": rate}, noise)
        metrics = engine.fetch_metrics()
        assert metrics["loss"] == pytest.approx(expected["elbo"], rel=tol["outputs"]["of_max"])
        assert metrics["grad_norm"] == pytest.approx(expected["grad_norm"], rel=tol["gradients"]["of_max"])
        assert metrics["skips"] == (step + 1) * expected["skipped_updates"]
    after = engine.state_to_numpy()["model"]
    names = [recorded.name(original) for original in case["param_names"]]
    for name, length in zip(names, recorded.outputs["after_l2"], strict=True):
        assert np.linalg.norm(after[name]) == pytest.approx(length, rel=1e-3, abs=1e-4), name
    moved = np.array([np.linalg.norm(after[name] - recorded.weights[name]) for name in names])
    np.testing.assert_allclose(moved, recorded.outputs["delta_l2"], rtol=1e-3, atol=2e-5)
    for original, name in zip(case["param_names"], names, strict=True):
        if f"after/{original}" in recorded.outputs:
            expected = recorded.outputs[f"after/{original}"]
            close = np.abs(as_recorded(after[name], expected) - expected)
            share = np.mean(close <= tol["parameters_after_steps"]["of_max"] * np.abs(expected).max())
            assert share >= tol["parameters_after_steps"]["share_of_entries"]
