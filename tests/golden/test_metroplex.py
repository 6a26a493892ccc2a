"""Both twins reproduce the results of Metroplex's two programs from imported weights."""

from math import log

import numpy as np
import pytest

from dioscuri import schedules
from tests.golden.recorded import cases, repeats
from tests.golden.recorded_metroplex import FLAX, KINDS, TENSORFLOW, Recorded, as_recorded
from tests.support.engines import engine_of
from tests.support.models import TWINS

__all__ = ["KINDS"]
SCALARS = {"beta": 1.0, "gamma": 0.0}
LARGE = 150
"""With more parameters, XLA compiles a step for a minute."""


@pytest.fixture(params=TWINS)
def made(request, case, tmp_path):
    """The recorded numbers and a twin with their weights."""
    recorded = Recorded(case, tmp_path)
    return recorded, recorded.use(TWINS[request.param])


def check_terms(recorded, actual):
    """Divergence of every group, gradients of some parameters and norms of all."""
    for group in recorded.groups:
        recorded.close(actual["kl"][:, group], f"kl_sum/{group:02}")
    norms = zip(recorded.case.about["param_names"], recorded.outputs["grad_l2"], strict=True)
    for original, expected in norms:
        gradient = actual[f"grad/{recorded.name(original)}"]
        recorded.case.close_norm(gradient, expected, original)
        if (name := f"grad/{original}") in recorded.outputs:
            recorded.close(as_recorded(gradient, recorded.outputs[name]), name, tolerance="gradients")


@pytest.mark.parametrize("case", cases(TENSORFLOW))
def test_forward_losses_and_gradients(made):
    recorded, twin = made
    actual = twin.forward(recorded.inputs["x"], recorded.noise("eps", "posterior"), SCALARS)
    dims = recorded.plan.image_dims
    recorded.close(actual["loss"], "elbo")
    recorded.close(actual["reconstruction"].mean() / dims, "distortion")
    recorded.close(actual["kl"].sum(1).mean() / dims, "rate")
    recorded.close(actual["loss"] / log(2), "elbo_bits_per_dim")
    recorded.close(actual["features"].transpose(0, 3, 1, 2), "px_z")
    logits = actual["output"]
    expected = recorded.outputs["logits"]
    logits = logits if logits.shape == expected.shape else logits[:1, ::2, ::2]
    same = unshared(recorded.plan)
    recorded.close(logits[..., same], "logits", expected[..., same])
    recorded.close(actual["divergence.0"].transpose(0, 3, 1, 2), "kl_full/00")
    recorded.close(actual[f"divergence.{recorded.groups[-1]}"].transpose(0, 3, 1, 2), "kl_full/last")
    check_terms(recorded, actual)


def unshared(plan):
    """Output channels that `shared_sigma`, which the original applies later, does not affect."""
    n, channels = plan.n_mixtures, np.arange(plan.head_channels)
    inside = (channels - n) % (3 * n)
    return (channels < n) | (inside < n) | (inside >= 2 * n) | (plan.shared_scale == "none")


@pytest.mark.parametrize("case", cases(TENSORFLOW, output="sample/x"))
def test_sampling(made):
    recorded, twin = made
    temperatures = [recorded.case.about["sample_temperature"]] * len(recorded.groups)
    actual = twin.generate(recorded.noise("sample_eps", "prior"), temperatures)
    recorded.close(actual["features"].transpose(0, 3, 1, 2), "sample/px_z")
    noise = {"mixture": recorded.inputs["sample_eps_gumbel"], "logistic": recorded.inputs["sample_u"]}
    values, pictures = twin.read(actual["output"], noise, "sample", 1.0)
    recorded.close(values, "sample/x")
    difference = np.abs(pictures.astype(int) - recorded.outputs["sample/uint8"])
    assert difference.max() <= 1
    assert 100 * (difference > 0).mean() <= recorded.case.number(r"except <=(\S+)% off-by-one")


@pytest.mark.parametrize("case", cases(FLAX))
def test_later_program(made):
    recorded, twin = made
    posterior = recorded.noise("eps", "posterior")
    actual = twin.forward(recorded.inputs["x"], posterior, SCALARS)
    recorded.close(actual["loss"], "loss")
    recorded.close(actual["reconstruction"].mean() / recorded.plan.image_dims, "recon_loss")
    recorded.close(actual["kl"].sum(1).mean() / recorded.plan.image_dims, "kl")
    recorded.close(actual["output"], "px_z")
    recorded.close(actual["z.0"], "z/00")
    recorded.close(actual[f"z.{recorded.groups[-1]}"], "z/last")
    check_terms(recorded, actual)
    gradients = [value for name, value in actual.items() if name.startswith("grad/")]
    recorded.close(np.sqrt(sum(np.square(value).sum() for value in gradients)), "grad_norm")
    check_later_samples(recorded, twin, actual)


def check_later_samples(recorded, twin, actual):
    """From the prior alone, and with the latents of the first blocks from the posterior."""
    settings, n = recorded.case.settings, len(recorded.groups)
    drawn = twin.generate(recorded.noise("uncond_eps", "prior"), [settings["uncond_temperature"]] * n)
    check_picture(recorded, twin, drawn["output"], "uncond")
    first, temperature = (settings["partial"][name] for name in ("first_blocks", "temperature"))
    masks = [np.full(block.variates, float(g < first)) for g, block in enumerate(recorded.plan.groups)]
    latents = {f"z.{g}": actual[f"z.{g}"] for g in recorded.groups}
    partial = twin.generate(recorded.noise("partial_eps", "prior"), [temperature] * n, latents, masks)
    check_picture(recorded, twin, partial["output"], "partial")


def check_picture(recorded, twin, output, name):
    recorded.close(output, f"{name}_px_z")
    pictures = twin.read(output, {}, "mean", 1.0)[1]
    assert np.abs(pictures.astype(int) - recorded.outputs[f"{name}_uint8"]).max() <= 1


def step_cases():
    """Cases with optimiser steps, and the twins."""
    for parameter in cases(TENSORFLOW, output="delta_l2"):
        for twin in TWINS:
            slow = twin == "jax" and len(parameter.values[0].about["param_names"]) > LARGE
            marks = pytest.mark.slow if slow else ()
            yield pytest.param(*parameter.values, twin, id=f"{parameter.id}-{twin}", marks=marks)


@pytest.mark.parametrize(("case", "twin"), [*step_cases()])
def test_original_steps(case, twin, tmp_path):
    """Schedule, clipping, skipping and Adam; the recorded losses are those before an update."""
    recorded = Recorded(case, tmp_path)
    recorded.use(TWINS[twin])
    engine = engine_of(twin, recorded.hparams)
    engine.state_from_numpy({"model": recorded.weights})
    times = repeats(len(recorded.inputs["image_uint8"]), 1, engine.device_count)
    batch = {"image": recorded.inputs["image_uint8"].repeat(times, 0)}
    noise = {name: array.repeat(times, 0) for name, array in recorded.noise("eps", "posterior").items()}
    tol, skips = case.about["tol"], 0
    for expected in case.about["optimizer_steps"]:
        rate = schedules.learning_rate(expected["step"], recorded.hparams.optimizer)
        assert rate == pytest.approx(expected["lr"], rel=1e-5, abs=1e-10)
        engine.train_step(batch, expected["step"], {**SCALARS, "learning_rate": rate}, noise)
        metrics = engine.fetch_metrics()
        assert metrics["loss"] == pytest.approx(expected["elbo"], rel=tol["outputs"]["of_max"])
        assert metrics["grad_norm"] == pytest.approx(expected["grad_norm"], rel=tol["gradients"]["of_max"])
        skips += expected["skipped_updates"]
        assert metrics["skips"] == skips
    check_parameters(recorded, engine.state_to_numpy()["model"])


def check_parameters(recorded, after):
    """Norms and changes of all parameters, and values of some."""
    case, tol = recorded.case, recorded.case.about["tol"]["parameters_after_steps"]
    originals = case.about["param_names"]
    names = [recorded.name(original) for original in originals]
    lengths, moved = (recorded.outputs[f"{name}_l2"] for name in ("after", "delta"))
    for name, length, distance in zip(names, lengths, moved, strict=True):
        # Differences of float32 parameters are rounded.
        floor = np.finfo(np.float32).eps * np.sqrt(after[name].size) * max(1, np.abs(after[name]).max())
        assert np.linalg.norm(after[name]) == pytest.approx(length, rel=tol["of_max"], abs=floor), name
        actual = np.linalg.norm(after[name] - recorded.weights[name])
        assert actual == pytest.approx(distance, rel=tol["of_max"], abs=floor), name
    for original, name in zip(originals, names, strict=True):
        if (output := f"after/{original}") in recorded.outputs:
            tensor = as_recorded(after[name], recorded.outputs[output])
            recorded.close(tensor, output, tolerance="parameters_after_steps")
