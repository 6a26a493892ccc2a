"""Steps of Efficient-VDVAE's programs, with updates, skips and averages, replayed in both engines."""

from math import log

import numpy as np
import pytest

from tests.golden.recorded import cases, repeats
from tests.golden.recorded_vae import KINDS, Recorded
from tests.support.engines import engine_of


@pytest.mark.parametrize("twin", ["torch", "jax"])
@pytest.mark.parametrize("case", cases(*KINDS, output="train_0"))
def test_original_steps(case, twin):
    recorded = Recorded(case)
    engine = engine_of(twin, recorded.hparams)
    engine.state_from_numpy({"model": recorded.weights})
    skipped = skipped_steps(recorded)
    for t in range(len(skipped)):
        # The JAX program counts completed steps.
        step = t - sum(skipped[:t]) if recorded.is_flax else t
        check_step(recorded, engine, t, step, skipped=skipped[t])
    state = engine.state_to_numpy()
    applied = len(skipped) - sum(skipped)
    assert {name: int(count) for name, count in state["counters"].items()} == {
        "updates": applied,
        "skips": sum(skipped),
        "skips_in_row": len(skipped) - max((t + 1 for t, skip in enumerate(skipped) if not skip), default=0),
    }
    check_parameters(recorded, state["model"], "params_after/")
    check_parameters(recorded, state["ema"], "ema_after/")
    check_moments(recorded, state["optimizer"])


def skipped_steps(recorded):
    """Whether each step was skipped; a column holds a count, or 1 for a skipped step."""
    columns = recorded.case.about["train_columns"]
    (column,) = [i for i, name in enumerate(columns) if "skip" in name]
    steps = sum(name.removeprefix("train_").isdigit() for name in recorded.outputs)
    values = [recorded.outputs[f"train_{t}"][column] for t in range(steps)]
    counted = np.diff(values, prepend=0.0) if "counter" in columns[column] else values
    assert set(counted) <= {0.0, 1.0}
    return [bool(value) for value in counted]


def check_step(recorded, engine, t, step, *, skipped):
    """One step, and the numbers that the program logged."""
    expected = recorded.outputs[f"train_{t}"]
    image, noise = (
        recorded.pixels_of(f"train_{t}"),
        recorded.latent_noise(f"train{t}", prior=False, posterior=True),
    )
    times = repeats(len(image), 1, engine.device_count)
    noise = {name: array.repeat(times, 0) for name, array in noise.items()}
    scalars = {"learning_rate": float(expected[0]), **recorded.scalars(step)}
    before = engine.state_to_numpy()["counters"]["skips"]
    engine.train_step({"image": image.repeat(times, 0)}, step, scalars, noise)
    assert engine.state_to_numpy()["counters"]["skips"] - before == skipped
    metrics, tol = engine.fetch_metrics(), recorded.case.about["tol"]
    bits = recorded.plan.image_dims * log(2)
    unit = 1 if recorded.is_bernoulli else bits
    assert metrics["reconstruction"] / unit == pytest.approx(expected[1], rel=tol["outputs"]["of_max"])
    assert metrics["grad_norm"] == pytest.approx(expected[3], rel=tol["gradients"]["of_max"])
    if not recorded.is_flax:  # that program weights the divergences it logs
        kl = sum(metrics[f"kl.{group}"] for group in recorded.groups)
        assert kl / bits == pytest.approx(expected[2], rel=tol["outputs"]["of_max"])


def check_parameters(recorded, actual, prefix):
    """Entries with almost no gradient move by the learning rate with either sign, so a few may differ."""
    expected, tol = recorded.canonical(prefix), recorded.case.about["tol"]["parameters_after_steps"]
    assert set(actual) == set(expected)
    near = [
        np.abs(actual[name] - array) <= recorded.case.limit(array, "parameters_after_steps")
        for name, array in expected.items()
    ]
    assert np.mean(np.concatenate([entries.ravel() for entries in near])) >= tol["share_of_entries"]


def check_moments(recorded, moments):
    """The PyTorch program's optimiser numbers parameters; those without a gradient have no entry."""
    for index, key in enumerate(recorded.keys):
        for name in ("exp_avg", "exp_inf"):
            recorded_name = f"opt_state/{index}/{name}"
            if recorded_name in recorded.outputs:
                recorded.close(moments[f"{name}.{key.name}"], recorded_name, tolerance="gradients")
