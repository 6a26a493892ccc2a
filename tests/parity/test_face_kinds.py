"""Models of other data than plain pictures: text conditions, text, padded pictures, sounds; and imports."""

import shutil

import numpy as np
import pytest

from dioscuri import UserError
from dioscuri import jax as in_jax
from dioscuri import torch as dio
from tests.support import published
from tests.support.twins import ROOT

SMALL = {"grid": 4, "codebook_size": 16, "target_res": 8, "channels": 1}
READER = {
    **SMALL,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "add_cross_attention": True,
    "encoder_hidden_size": 8,
    "text_length": 3,
    "initializer_range": 1.0,
}
TEXTS = {"text": np.random.default_rng(0).normal(size=(2, 3, 8)).astype(np.float32)}


@pytest.fixture(scope="module")
def reader():
    return dio.new("maskgit", **READER)


@pytest.fixture(scope="module")
def writer():
    sizes = {"depth": 1, "dim": 32, "dim_head": 32, "nb_heads": 2}
    return dio.new("sundae", grid=0, sequence_length=8, **sizes)


def test_texts_condition_what_is_drawn(reader):
    call = {"decode": False, "steps": 2, "seed": 1}
    first = reader.generate(texts=TEXTS, **call)
    assert first.shape == (2, 4, 4)
    others = {"text": 30 * TEXTS["text"]}
    assert (reader.generate(texts=others, **call) != first).any()
    one = {"text": TEXTS["text"][:1]}
    assert reader.generate(5, texts=one, **call).shape == (5, 4, 4)
    loss, _ = reader.loss(reader.batch(tokens=first, **TEXTS))
    assert np.isfinite(loss.item())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "texts must be encoded: .* got None"),
        ({"texts": ["a cat"]}, "texts must be encoded: .* got a list"),
        ({"texts": "a cat"}, r"encode captions with data_scripts/encode_text\.py"),
        ({"texts": {"text": np.zeros((2, 3, 9))}}, r"'text' must be \(N, T, 8\); got float64 \(2, 3, 9\)"),
        ({"texts": {"txt": np.zeros((2, 3, 8))}}, r"'txt' is unknown \(did you mean 'text'\?\)"),
        ({"texts": {"text": np.full((2, 3, 8), np.nan)}}, "not finite"),
        (
            {"texts": {"null.text": np.zeros((2, 3, 8))}},
            r"'null\.text' goes with 'text', which must be there",
        ),
        ({"n": 3, "texts": TEXTS}, "texts hold 2 rows for 3 pictures"),
    ],
)
def test_other_texts_are_refused(reader, options, says):
    with pytest.raises(UserError, match=says):
        reader.generate(decode=False, steps=2, **options)


def test_a_model_of_text_has_texts_for_pictures(writer):
    tokens = writer.encode(["hello", "abc d"])
    assert writer.decode(tokens).tolist() == ["hello   ", "abc d   "]
    drawn = writer.generate(3, steps=2, seed=1)
    assert [len(text) for text in drawn.tolist()] == [8] * 3
    filled = writer.inpaint(["hello", "abc d"], np.arange(8) < 3, steps=2)
    assert [text[3:] for text in filled.tolist()] == ["lo   ", " d   "]
    assert np.isfinite(writer.loss(writer.batch(tokens=tokens))[0].item())


@pytest.mark.parametrize("texts", [["hello there you"], [3], [], 3, None])
def test_other_texts_of_a_model_of_text_are_refused(writer, texts):
    with pytest.raises(UserError, match=r"text 0 has 15 characters|texts must be str"):
        writer.encode(texts)
    with pytest.raises(UserError, match=r"mask must be bool \(8,\)"):
        writer.inpaint(["hello"], np.ones(7, bool))


def test_pictures_that_were_padded_in_training_need_no_edge():
    vae = dio.new("hierarchical_vae", dataset_source="mnist10k", target_res=32, channels=1)
    assert vae.picture_shape == (28, 28, 1)
    pictures = np.zeros((2, 28, 28, 1), np.uint8)
    assert vae.reconstruct(pictures).shape == vae.generate(2).shape == (2, 28, 28, 1)
    noise = vae.draw_noise("train_step", 2)
    plain, padded = pictures, np.pad(pictures, ((0, 0), (2, 2), (2, 2), (0, 0)))
    losses = [vae.loss({"image": given}, noise=noise)[0].item() for given in (plain, padded)]
    assert losses[0] == losses[1]


def test_sounds_are_samples():
    sizes = {"target_res": 16, "channels": 1, "width": 32, "depth": 1}
    kind = {"dataset_source": "wav", "sample_rate": 8000, "sample_encoding": "mu_law"}
    model = dio.new("metroplex", **sizes, **kind)
    assert model.picture_shape == (16, 1)
    sounds = model.generate(3)
    assert (sounds.shape, sounds.dtype) == ((3, 16, 1), np.uint8)
    assert model.bound(sounds[..., 0]).elbo.shape == (3,)
    with pytest.raises(UserError, match=r"pictures must be uint8 \(N, 16\[, 1\]\)"):
        model.bound(np.zeros((3, 15), np.uint8))


def test_a_published_folder_is_a_model_in_both_twins(tmp_path):
    folder = published.write_folder(tmp_path / "theirs", "maskgit_vqgan", "model.safetensors")
    models = dio.load(folder), in_jax.load(folder)
    H, W, C = models[0].picture_shape
    pictures = np.random.default_rng(0).integers(0, 256, (2, H, W, C), np.uint8)
    np.testing.assert_array_equal(*[model.encode(pictures) for model in models])
    models[0].save(tmp_path / "mine")
    np.testing.assert_array_equal(in_jax.load(tmp_path / "mine").encode(pictures), models[0].encode(pictures))


def test_runs_of_version_0_1_0_open_in_both_twins(tmp_path):
    for run in (ROOT / "tests" / "fixtures" / "runs_0_1_0").iterdir():
        shutil.copytree(run, tmp_path / f"logs-{run.name}")
    folders = sorted(tmp_path.iterdir())
    assert len(folders) == 6
    for folder in folders:
        models = dio.load(folder), in_jax.load(folder)
        assert f"logs-{models[0].family}" == folder.name
        first, second = (model._network.weights() for model in models)
        for name, array in first.items():
            np.testing.assert_array_equal(array, second[name], err_msg=f"{folder.name} {name}")
    assert dio.load(tmp_path / "logs-maskgit").generate(2, steps=2).shape == (2, 8, 8, 1)
