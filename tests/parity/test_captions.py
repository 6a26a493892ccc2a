"""Training on captions that are encoded on the way is the same in both twins."""

from functools import partial
from importlib import import_module

import numpy as np
import pytest

from dioscuri.contract import family_of
from dioscuri.data import open_datasets, pipeline
from dioscuri.families.maskgit.description import describe
from tests.support import captioned, engines, tiny_maskgit
from tests.support.tiny_encoder import LENGTH, WIDTH, write_encoder

TWINS = ("torch", "jax")
STEPS, BATCH = 4, 4
MORE = ("data.random_crop=True", "data.random_horizontal_flip=True", "data.encode_first=True")


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    folder = tmp_path_factory.mktemp("captions")
    pictures = captioned.write_pictures(folder / "pictures", size=(20, 9))
    encoder, tokenizer = write_encoder(folder, "clip"), tiny_maskgit.write_tokenizer(folder)
    return partial(captioned.options, pictures, tokenizer, encoder, folder / "cache", *captioned.UVIT, *MORE)


def test_both_twins_see_the_same_batches_and_learn_the_same(options):
    losses, seen = {}, {}
    for twin in TWINS:
        engine = engines.make_engine(twin, "train.precision=float64", options=options)
        hparams = engine.hparams
        sets = open_datasets(hparams, (), family_of(hparams).captions(hparams))
        stream = pipeline.training_batches(sets.train, hparams, batch_size=BATCH)
        batches = [next(stream) for _ in range(STEPS)]
        stream.close()
        losses[twin] = engines.run_steps(
            engine,
            range(STEPS),
            batches.__getitem__,
            lambda _: {"learning_rate": 0.005, "ema_decay": 0.5},
            partial(engines.recorded_noise, engine, rows=BATCH),
        )["loss"]
        seen[twin] = batches
    for one, other in zip(*seen.values(), strict=True):
        for name, array in one.items():
            np.testing.assert_array_equal(array, other[name])
    np.testing.assert_allclose(losses["torch"], losses["jax"], rtol=1e-9)
    assert len(set(losses["torch"])) == STEPS
    assert {name for batch in batches for name in batch} >= {"image", "text", "text_mask", "pooled", "micro"}
    assert len({tuple(row) for batch in batches for row in batch["micro"]}) > BATCH


@pytest.mark.parametrize("twin", TWINS)
def test_a_network_may_attend_to_the_padding_of_texts(options, twin):
    array = import_module("torch").from_numpy if twin == "torch" else import_module("jax").numpy.asarray
    batch = {"text": np.ones((2, LENGTH, WIDTH), np.float32), "text_mask": np.ones((2, LENGTH), bool)}
    for attends, told in ((False, {"text", "text_mask", "text_keep"}), (True, {"text", "text_keep"})):
        hparams = options(f"data.attend_padding={attends}")
        methods = import_module(f"{twin}_impl.families.methods").methods_of(hparams)
        assert set(methods._condition({name: array(value) for name, value in batch.items()})) == told
        assert ("text_mask" in describe(hparams).rows) is not attends
