"""A user's workflow: train a model on a folder of pictures with captions, continue it, draw from prompts."""

import numpy as np
import pytest

from dioscuri import torch as torch_face
from dioscuri.checkpoint import store
from dioscuri.data import caption_cache
from dioscuri.errors import UserError
from tests.support import captioned, tiny_maskgit
from tests.support.tiny_encoder import write_encoder
from tests.support.twins import call

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with captioned pictures, a tokenizer and a text encoder."""
    folder = tmp_path_factory.mktemp("captions")
    captioned.write_pictures(folder / "pictures")
    tiny_maskgit.write_tokenizer(folder)
    write_encoder(folder, "clip")
    return folder


def words(folder, *more):
    places = (folder / "pictures", folder / "logs-tiny", folder / "clip", folder / "cache")
    return [tiny_maskgit.write_tiny(folder), *captioned.words(*places, *captioned.MODEL, *more)]


def weights(run):
    return store.load(run / "checkpoints", 4).state


def test_a_model_is_trained_on_captions_resumed_and_draws_from_prompts(folder, monkeypatch):
    twin, interval = folder / "torch_impl", "train.checkpoint_and_eval_interval_in_steps=2"
    call("train", twin, *words(folder, interval, "train.total_train_steps=4"))
    with monkeypatch.context() as patched:
        patched.setattr(caption_cache, "TextEncoder", None)  # the cache holds every caption
        for steps in (2, 4):
            more = ("run.name=again", interval, f"train.total_train_steps={steps}")
            call("train", twin, *words(folder, *more))
    straight, resumed = (weights(twin / f"logs-{run}") for run in ("captions", "again"))
    for group in ("model", "ema", "optimizer"):
        for key, array in straight[group].items():
            np.testing.assert_array_equal(array, resumed[group][key])
    model = torch_face.load(twin / "logs-captions")
    drawn = model.generate(prompts=["fox", "dog"], seed=1, steps=2)
    assert drawn.shape == (2, 8, 8, 1)
    (folder / "clip").rename(folder / "moved")
    model = torch_face.load(twin / "logs-captions", text_encoder=folder / "moved")
    np.testing.assert_array_equal(model.generate(prompts=["fox", "dog"], seed=1, steps=2), drawn)
    with pytest.raises(UserError, match="this model has no text encoder to read prompts"):
        torch_face.load(twin / "logs-captions").generate(prompts=["fox"])
