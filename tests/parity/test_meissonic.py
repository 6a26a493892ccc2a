"""Training a Meissonic and sampling from it is the same in both twins, and the network is told the time."""

from functools import partial

import numpy as np
import pytest

from tests.parity.test_maskgit_training import CERTAIN, TWINS, assert_equal_results, batch_of
from tests.support import engines
from tests.support.engines import (
    assert_curves_agree,
    assert_goes_on,
    assert_steps_agree,
    recorded_noise,
    run_steps,
)
from tests.support.tiny_maskgit import CODES, GRID, tiny

N, BATCH, TEXT, WIDTH = 100, 4, 3, 6
MEISSONIC = (
    "model.architecture=meissonic",
    "model.num_classes=0",
    "data.labels=False",
    "model.hidden_size=16",
    "model.cond_embed_dim=16",
    "model.num_hidden_layers=1",
    "model.num_single_layers=1",
    "model.intermediate_size=24",
    f"model.encoder_hidden_size={WIDTH}",
    "model.axes_dims_rope=[2, 2, 4]",
    "model.force_down_up_sample=True",
    f"data.text_length={TEXT}",
)


def make_engine(twin, *options):
    return engines.make_engine(twin, *MEISSONIC, *options, options=tiny)


def conditions(step, n=BATCH):
    """Random texts and micro-conditions."""
    rng = np.random.default_rng((7, step))
    return {
        "text": rng.normal(size=(n, TEXT, WIDTH)).astype(np.float32),
        "text_mask": np.ones((n, TEXT), bool),
        "pooled": rng.normal(size=(n, 16)).astype(np.float32),
        "micro": rng.uniform(0, 64, (n, 5)).astype(np.float32),
    }


def examples(step):
    return {"tokens": batch_of(step, BATCH)["tokens"]} | conditions(step)


def train(engine, steps):
    """Run the steps; returns the metrics of each."""
    return run_steps(
        engine,
        steps,
        examples,
        lambda step: {"learning_rate": 0.005 * min(1, step / 5), "ema_decay": min(0.9, step / 10)},
        partial(recorded_noise, engine, rows=BATCH),
    )


@pytest.fixture(scope="module")
def trained():
    """Engines of both twins after a hundred steps, and the losses."""
    made = {twin: make_engine(twin) for twin in TWINS}
    return made, {twin: train(engine, range(N))["loss"] for twin, engine in made.items()}


def test_a_hundred_steps_have_the_same_losses(trained):
    assert_curves_agree(trained[1], fall=0.9)


def test_a_run_continues_in_the_other_twin(trained):
    assert_goes_on(make_engine, train, ("torch", "jax"), trained[1]["torch"])


def test_steps_in_float64_agree_to_rounding():
    assert_steps_agree(make_engine, train)


def test_sampling_draws_the_same_tokens(trained):
    """The time is the share of masked tokens; golden cases have the steps that follow."""
    made = {twin: make_engine(twin, *CERTAIN) for twin in TWINS}
    state = trained[0]["torch"].state_to_numpy()
    for engine in made.values():
        engine.state_from_numpy(state)
    given = examples(1) | {"unknown": np.tile(np.arange(GRID**2) >= 4, (BATCH, 1))}
    results = {twin: engine.run("inpaint", given, ema=False, step=0) for twin, engine in made.items()}
    filled = assert_equal_results(results)["tokens"]
    np.testing.assert_array_equal(filled[:, :4], given["tokens"][:, :4])
    assert (filled < CODES).all()


def test_predictions_depend_on_text_and_time(trained):
    engine = trained[0]["torch"]
    batch = examples(2)
    masks = [np.tile(np.arange(GRID**2) < n, (BATCH, 1)) for n in (4, 12)]
    first, *others = (
        engine.run("evaluate", batch | changed | {"mask": masks[0]}, ema=False, step=0)["cross_entropy"]
        for changed in ({}, {"text": -batch["text"]}, {"micro": batch["micro"] + 9})
    )
    for other in others:
        assert np.abs(first - other).max() > 1e-4
    untold = make_engine("torch", "model.timestep_factor=0.")
    untold.state_from_numpy(engine.state_to_numpy())
    other = untold.run("evaluate", batch | {"mask": masks[1]}, ema=False, step=0)["cross_entropy"]
    told = engine.run("evaluate", batch | {"mask": masks[1]}, ema=False, step=0)["cross_entropy"]
    assert np.abs(told - other).max() > 1e-4
