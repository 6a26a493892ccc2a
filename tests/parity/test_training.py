"""Training is the same in both twins: curves, checkpoints, and runs that continue in the other twin."""

import numpy as np
import pytest
from safetensors.numpy import save

from tests.support.engines import (
    assert_curves_agree,
    assert_states_close,
    assert_states_equal,
    make_engine,
    pictures,
    train,
)

N = 100
HALF = 5


@pytest.fixture(scope="module")
def curves(users_compiler):
    with users_compiler():
        return {twin: train(make_engine(twin), range(N)) for twin in ("torch", "jax")}


def test_a_hundred_steps_have_the_same_losses(curves):
    assert_curves_agree(curves, fall=0.9)


def test_three_steps_in_float64_agree_to_rounding():
    states = {}
    for twin in ("torch", "jax"):
        engine = make_engine(twin, "train.precision=float64")
        losses = train(engine, range(3))
        states[twin] = engine.state_to_numpy()
        states[f"{twin} losses"] = losses
    np.testing.assert_allclose(states["torch losses"], states["jax losses"], rtol=1e-9)
    assert states["torch"]["model"]["top_down.trainable_h"].dtype == np.float64
    assert_states_close(states["torch"], states["jax"], 1e-9)


def test_bfloat16_stays_near_float32(curves):
    for twin in ("torch", "jax"):
        losses = train(make_engine(twin, "train.precision=bfloat16"), range(3))
        np.testing.assert_allclose(losses, curves[twin][:3], rtol=1e-2)


@pytest.mark.parametrize(
    ("first", "second"), [("torch", "jax"), ("jax", "torch"), ("torch", "torch"), ("jax", "jax")]
)
def test_a_run_continues_in_either_twin(curves, first, second):
    engine = make_engine(first)
    train(engine, range(HALF))
    state = engine.state_to_numpy()
    other = make_engine(second, "run.seed=99")
    other.state_from_numpy(state)
    files = [{group: save(tensors) for group, tensors in s.items()} for s in (state, other.state_to_numpy())]
    assert files[0] == files[1]
    losses = train(other, range(HALF, 20))
    np.testing.assert_allclose(losses, curves[first][HALF:20], rtol=1e-4)
    if first == second:
        train(engine, range(HALF, 20))
        assert_states_equal(engine.state_to_numpy(), other.state_to_numpy())


@pytest.mark.parametrize("twin", ["torch", "jax"])
@pytest.mark.parametrize("decay", [True, False])
def test_parameters_without_gradient_stay_as_they_are_unless_they_decay(twin, decay):
    """Nothing reads the pool after the last level: only weight decay changes its kernel."""
    name = "bottom_up.blocks.1.pool"
    engine = make_engine(twin, f"loss.use_weight_decay={decay}", "loss.l2_weight=0.1")
    before = engine.state_to_numpy()["model"]
    engine.train_step({"image": pictures(0)}, 0, {"learning_rate": 0.01, "beta": 1.0, "gamma": 0.0})
    after = engine.state_to_numpy()["model"]
    factor = 1 - 0.01 * 0.1 if decay else 1
    np.testing.assert_allclose(after[f"{name}.weight"], factor * before[f"{name}.weight"], rtol=1e-6)
    np.testing.assert_array_equal(after[f"{name}.bias"], before[f"{name}.bias"])
