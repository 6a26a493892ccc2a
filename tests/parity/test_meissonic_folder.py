"""A folder in Meissonic's layout opens as a model of either twin."""

import json
from importlib import import_module

import numpy as np
import pytest
from safetensors.numpy import load_file

from dioscuri.cli.convert import main as convert
from tests.support.tiny_meissonic import CONFIG, GRID, SIDE, write_meissonic

TWINS = ("torch", "jax")
FILE = "diffusion_pytorch_model.safetensors"
CALL = {"prompts": ["red fox", "b 2"], "negative_prompts": "blur", "steps": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_meissonic(tmp_path_factory.mktemp("meissonic"))


@pytest.fixture(scope="module")
def models(folder):
    return {twin: import_module(f"dioscuri.{twin}").load(folder) for twin in TWINS}


def test_prompts_become_the_same_pictures(models):
    noise = models["torch"].draw_noise("generate", 2, seed=1, steps=2)
    tokens = [model.generate(**CALL, noise=noise, decode=False) for model in models.values()]
    np.testing.assert_array_equal(*tokens)
    assert tokens[0].shape == (2, GRID, GRID)
    assert len(np.unique(tokens[0])) > 8
    pictures = [model.decode(tokens[0]) for model in models.values()]
    assert pictures[0].shape == (2, SIDE, SIDE, 3)
    assert abs(pictures[0].astype(int) - pictures[1]).max() <= 1


def test_sampling_is_that_of_the_authors(models):
    options = models["torch"].hparams.synthesis
    assert (options.steps, options.guidance_scale, options.temperature) == (48, 8, (2, 0))
    assert options.legacy_timestep
    assert models["torch"].hparams.model.timestep_factor == 1000


def test_pictures_are_edited_and_filled(models):
    pictures = np.random.default_rng(0).integers(0, 256, (2, SIDE, SIDE, 3), np.uint8)
    model, mask = models["torch"], np.zeros((SIDE, SIDE), bool)
    mask[:32] = True
    known = model.encode(pictures)
    filled = model.inpaint(pictures, mask, **CALL, seed=1, decode=False)
    np.testing.assert_array_equal(filled[:, 16:], known[:, 16:])
    assert (filled[:, :16] != known[:, :16]).mean() > 0.5
    edited = model.edit(pictures, strength=0.5, **CALL, seed=1, decode=False)
    assert 0.3 < (edited != known).mean() < 0.9


def test_a_run_of_published_weights_goes_back(folder, tmp_path):
    convert([str(folder / "transformer"), "--run", str(tmp_path / "logs-mine"), "data.text_length=8"])
    convert([str(tmp_path / "logs-mine"), "--to-folder", str(tmp_path / "out"), "--to", "meissonic"])
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == CONFIG
    published, ours = (load_file(path / FILE) for path in (folder / "transformer", tmp_path / "out"))
    assert set(published) == set(ours)
    for name, array in published.items():
        np.testing.assert_array_equal(ours[name], array)
    model = import_module("dioscuri.torch").load(tmp_path / "out", tokenizer=None)
    assert model.hparams.model.architecture == "meissonic"
