"""`train.scan_blocks` only changes how the JAX model is compiled."""

import jax
import numpy as np
import pytest

from tests.parity.model_cases import make
from tests.support.engines import assert_states_close, make_engine, pictures, scalars
from tests.support.models import Jax

SHALLOW = ("model.up_n_layers=[0, 0]", "model.down_n_layers=[0, 0]", "model.down_n_blocks=[1, 1]")
# Three equal top-down blocks at 4x4 and one at 8x8; two equal bottom-up blocks before one with a skip.
RUNS = (*SHALLOW, "model.up_n_blocks_per_res=[0, 2]", "model.down_n_blocks_per_res=[2, 0]")
SCALARS = {"beta": 0.7, "gamma": 1.0}


@pytest.fixture
def given():
    """Pictures, noise, masks and temperatures."""
    _, plan, _, images, noise, masks = make("grey", *RUNS)
    return images / 127.5 - 1, noise, masks, np.linspace(0.5, 1, len(plan.down))


def model(scan, precision="float64", *, checkpoint=False):
    """Always the same weights."""
    options, _, weights, *_ = make("grey", *RUNS, f"train.scan_blocks={scan}")
    return Jax(options, weights, precision, checkpoint=checkpoint)


def assert_close(ours, theirs, within):
    """Relative to each tensor's largest value."""
    assert set(ours) == set(theirs)
    for name, value in theirs.items():
        assert ours[name].dtype == value.dtype
        limit = within * np.abs(value.astype(np.float64)).max()
        np.testing.assert_allclose(ours[name], value, rtol=0, atol=limit, err_msg=name)


@pytest.mark.parametrize("checkpoint", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_masked_forward_and_gradients_are_those_of_the_unrolled_model(given, checkpoint):
    x, noise, masks, _ = given
    unrolled = model(False).forward(x, noise, SCALARS, masks)
    assert any(name.startswith("grad/top_down.blocks.2.") for name in unrolled)
    scanned = model(True, checkpoint=checkpoint).forward(x, noise, SCALARS, masks)
    assert_close(scanned, unrolled, 1e-12)


@pytest.mark.parametrize(("precision", "within"), [("float64", 1e-12), ("bfloat16", 0.05)])
def test_forward_is_that_of_the_unrolled_model(given, precision, within):
    x, noise, *_ = given
    unrolled, scanned = (
        model(scan, precision).forward(x, noise, SCALARS, gradients=False) for scan in (False, True)
    )
    assert_close(scanned, unrolled, within)


@pytest.mark.parametrize("latents", [False, True])
def test_generation_is_that_of_the_unrolled_model(given, latents):
    """From the prior, or from latents whose masked variates come from the prior."""
    _, noise, masks, temperatures = given
    z = {name.replace("posterior", "z"): array for name, array in noise.items() if "posterior" in name}
    extra = (z, masks) if latents else ()
    unrolled, scanned = (model(scan).generate(noise, temperatures, *extra) for scan in (False, True))
    assert_close(scanned, unrolled, 1e-12)


@pytest.mark.parametrize(("scan", "expected"), [(False, (0, 0)), (True, (2, 1))])
def test_every_run_is_one_scan(given, scan, expected):
    """A forward pass has the scans of both paths, generation those of the top-down path."""
    x, noise, _, temperatures = given
    parts, params = model(scan, "float32").model

    def scans(method, *arguments):
        program = jax.make_jaxpr(lambda params: getattr(parts.merge(params), method)(*arguments))
        return str(program(params)).count("= scan[")

    actual = scans("__call__", x.astype(np.float32), noise), scans("generate", noise, temperatures)
    assert actual == expected


def test_parameters_keep_their_names_and_shapes():
    (scanned, _), (unrolled, _) = model(True).model, model(False).model
    assert (scanned.layout, scanned.tree) == (unrolled.layout, unrolled.tree)


def test_training_steps_are_those_of_the_unrolled_model():
    states, losses = [], []
    for scan in (False, True):
        runs = (*SHALLOW, "model.down_n_blocks_per_res=[3, 0]")
        engine = make_engine("jax", *runs, f"train.scan_blocks={scan}")
        for step in range(2):
            engine.train_step({"image": pictures(step)}, step, scalars(step))
        states.append(engine.state_to_numpy())
        losses.append(engine.fetch_metrics()["loss"])
    np.testing.assert_allclose(*losses, rtol=1e-5)
    assert_states_close(*states, 1e-5)
