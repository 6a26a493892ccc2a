"""Training Metroplex is the same in both twins: curves, and runs that continue in the other twin."""

from functools import partial
from itertools import product

import numpy as np
import pytest
from safetensors.numpy import save

from dioscuri import schedules
from dioscuri.hparams import load
from tests.parity.option_cases import ROOT
from tests.support import engines
from tests.support.engines import assert_curves_agree, assert_states_close, pictures, recorded_noise

N, HALF, BATCH = 100, 5, 8
TINY = (
    "model.width=16",
    "model.enc_blocks='4x1,4d4,1x1'",
    "model.dec_blocks='1x1,4m1'",
    "model.zdim=4",
    "optimizer.warmup_steps=5.",
    "optimizer.decay_steps=100",
)
ATTENTION = (
    "model.width=16",
    "model.enc_blocks=''",
    "model.dec_blocks=''",
    "model.transformer=True",
    "model.base_hidden_res=4",
    "model.depth=2",
    "model.head_dim=8",
    "model.zdim=4",
)


def digits(*overrides):
    return load(ROOT / "egs" / "metroplex" / "digits.cfg", overrides)


make_engine = partial(engines.make_engine, options=digits)


def train(engine, steps, metric="loss"):
    results = []
    for step in steps:
        noise = recorded_noise(engine, step, BATCH)
        rate = schedules.learning_rate(step, engine.hparams.optimizer)
        scalars = {"learning_rate": rate, "beta": 1.0, "gamma": 0.0}
        engine.train_step({"image": pictures(step)}, step, scalars, noise)
        results.append(engine.fetch_metrics()[metric])
    return np.array(results)


@pytest.fixture(scope="module")
def trained(users_compiler):
    """Losses of a hundred steps in both twins, and the engines."""
    engines = {twin: make_engine(twin, *TINY) for twin in ("torch", "jax")}
    starts = {twin: engine.state_to_numpy() for twin, engine in engines.items()}
    assert all((starts["torch"]["model"][k] == v).all() for k, v in starts["jax"]["model"].items())
    with users_compiler():
        first = {twin: train(engine, range(HALF)) for twin, engine in engines.items()}
    half = {twin: engine.state_to_numpy() for twin, engine in engines.items()}
    rest = {twin: train(engine, range(HALF, N)) for twin, engine in engines.items()}
    return engines, {twin: np.concatenate([first[twin], rest[twin]]) for twin in engines}, half


def test_a_hundred_steps_have_the_same_losses(trained):
    _, curves, half = trained
    assert_curves_agree(curves, fall=0.9)
    assert_states_close(half["torch"], half["jax"], 1e-3)


@pytest.mark.parametrize(("first", "second"), [*product(("torch", "jax"), repeat=2)])
def test_a_run_continues_in_either_twin(trained, first, second):
    engines, curves, half = trained
    other = engines[second]
    other.state_from_numpy(half[first])
    files = [{g: save(tensors) for g, tensors in s.items()} for s in (half[first], other.state_to_numpy())]
    assert files[0] == files[1]
    losses, expected = train(other, range(HALF, 20)), curves[first][HALF:20]
    np.testing.assert_allclose(losses, expected, rtol=0 if first == second else 1e-4)


def test_clipped_and_skipped_steps_leave_the_same_state():
    """In one of three steps the gradient is too large; in the others it is clipped."""
    options = (*TINY, "optimizer.warmup_steps=0.", "optimizer.gradient_clip_norm_value=0.05")
    norms = train(make_engine("torch", *options), range(3), "grad_norm")
    assert min(norms) > 0.05
    limit = float(np.mean(sorted(norms)[1:]))
    states = []
    for twin in ("torch", "jax"):
        engine = make_engine(twin, *options, f"optimizer.gradient_skip_threshold={limit}")
        train(engine, range(3))
        states.append(engine.state_to_numpy())
    assert [int(state["counters"]["skips"]) for state in states] == [1, 1]
    assert_states_close(*states, 1e-4)


def test_variational_attention_trains_alike():
    curves = [train(make_engine(twin, *ATTENTION), range(20)) for twin in ("torch", "jax")]
    np.testing.assert_allclose(*curves, rtol=1e-4)
