"""The classifier is the same in both twins: outputs, training, and runs for `dioscuri evaluate`."""

from functools import partial

import numpy as np
import pytest

from dioscuri.checkpoint import store
from dioscuri.evaluation.extractors import classifier
from dioscuri.evaluation.pictures import PictureArray
from dioscuri.hparams import load
from dioscuri.hparams.archive import copy_path
from dioscuri.metrics.frechet import frechet_distance, moments
from tests.support import engines
from tests.support.engines import (
    assert_curves_agree,
    assert_states_close,
    assert_states_equal,
    engine_of,
    inference_engine_of,
    pictures,
    run_steps,
)
from tests.support.tiny_classifier import DIGITS, tiny

TWINS = ("torch", "jax")
N = 100


make_engine = partial(engines.make_engine, options=tiny)


def batch_of(step, n=8):
    """Pictures whose class is their brightness."""
    image = pictures(step, n)
    order = image.mean((1, 2, 3)).argsort().argsort()
    return {"image": image, "label": (10 * order // n).astype(np.int32)}


def train(engine, steps):
    """Run the steps; returns the loss of each."""
    scalars_of = lambda step: {"learning_rate": 0.004 * min(1, step / 5), "ema_decay": 0.9}  # noqa: E731
    return run_steps(engine, steps, batch_of, scalars_of)["loss"]


@pytest.fixture(scope="module")
def curves():
    return {twin: train(make_engine(twin), range(N)) for twin in TWINS}


def test_a_hundred_steps_have_the_same_losses(curves):
    assert_curves_agree(curves, fall=0.9)


@pytest.mark.parametrize("options", [(), ("loss.label_smoothing=0.2", "model.n_blocks=0")], ids=" ".join)
def test_steps_in_float64_agree_to_rounding(options):
    states, losses = {}, {}
    for twin in TWINS:
        engine = make_engine(twin, "train.precision=float64", *options)
        losses[twin], states[twin] = train(engine, range(3)), engine.state_to_numpy()
    np.testing.assert_allclose(losses["torch"], losses["jax"], rtol=1e-9)
    assert_states_close(states["torch"], states["jax"], 1e-8)
    assert all(array.any() for name, array in states["torch"]["optimizer"].items())


def test_features_and_logits_agree_and_come_of_the_trained_weights():
    found = {}
    for twin in TWINS:
        engine = make_engine(twin, "train.precision=float64")
        train(engine, range(3))
        found[twin] = engine.run("encode", {"image": batch_of(9)["image"]}, ema=True, step=0)
        evaluated = engine.run("evaluate", batch_of(9), ema=True, step=0)
        log_p = found[twin]["logits"] - np.log(np.exp(found[twin]["logits"]).sum(1, keepdims=True))
        labels = batch_of(9)["label"]
        np.testing.assert_allclose(evaluated["cross_entropy"], -log_p[np.arange(8), labels], rtol=1e-9)
        np.testing.assert_array_equal(evaluated["correct"], log_p.argmax(1) == labels)
    for name, shape in {"features": (8, 6), "logits": (8, 10)}.items():
        assert found["torch"][name].shape == shape
        np.testing.assert_allclose(found["torch"][name], found["jax"][name], rtol=1e-9, atol=1e-12)


def test_bfloat16_stays_near_float32(curves):
    for twin in TWINS:
        losses = train(make_engine(twin, "train.precision=bfloat16"), range(3))
        np.testing.assert_allclose(losses, curves[twin][:3], rtol=1e-2)


def test_a_run_continues_in_the_other_twin(curves):
    for first, second in (TWINS, TWINS[::-1]):
        engine, other = make_engine(first), make_engine(second)
        train(engine, range(10))
        other.state_from_numpy(engine.state_to_numpy())
        assert_states_equal(engine.state_to_numpy(), other.state_to_numpy())
        np.testing.assert_allclose(train(other, range(10, 20)), curves[first][10:20], rtol=1e-3)


def write_run(folder, twin):
    """Write the run folder of an untrained classifier; return its path."""
    path = folder / f"{twin}_impl" / "logs-tiny"
    path.mkdir(parents=True)
    text = DIGITS.read_text().replace("classifier_digits", "tiny").replace("[16, 32]", "[4, 6]")
    copy = copy_path(path.parent, "tiny")
    copy.write_text(text)
    engine = engine_of(twin, load(copy))
    engine.initialise()
    store.save(path / "checkpoints", 7, engine.state_to_numpy(), {"best": None}, keep=1)
    return path


def test_either_twins_run_extracts_the_same_features(tmp_path):
    image, asked = pictures(0, 300), []

    def make(twin, hparams):
        asked.append(twin)
        return inference_engine_of(twin, hparams)

    extractors = [classifier(write_run(tmp_path, twin), make) for twin in TWINS]
    assert asked == list(TWINS)
    made = [extractor.of(PictureArray(tmp_path, image)) for extractor in extractors]
    assert extractors[0].description == "classifier 'tiny', averaged weights of step 7, which sees grey only"
    assert (made[0].features.shape, made[0].logits.shape) == ((300, 6), (300, 10))
    np.testing.assert_allclose(made[0].features, made[1].features, rtol=1e-4, atol=1e-5)
    half = moments(made[0].features[:150]), moments(made[0].features[150:])
    assert frechet_distance(*half) > 0
