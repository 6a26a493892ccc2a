"""The examples run unchanged in both twins."""

import runpy
import sys
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support import faces, published, sections, tiny

EXAMPLES = Path(__file__).parents[2] / "examples"
TWINS = ("torch", "jax")


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run an example in a new folder; return its output."""

    def call(name, *words):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [name, *map(str, words)])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return call


def size_of(path):
    with Image.open(path) as image:
        return image.size


def folder_of_pictures(folder, side, n=8):
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(n):
        Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8)).save(folder / f"{i}.png")
    return folder


def test_there_is_no_other_example():
    assert {path.name for path in EXAMPLES.glob("*.py")} == {
        "load_and_sample.py",
        "train_on_a_folder.py",
        "training_loop.py",
        "fine_tune.py",
        "compare.py",
        "linear_probe.py",
    }


@pytest.mark.parametrize("twin", TWINS)
def test_load_and_sample(run, tmp_path, twin):
    runs = faces.runs(tmp_path)
    output = run("load_and_sample.py", runs["maskgit"], "--classes", 3, 7, "--n", 4, "--twin", twin)
    assert "4 pictures in samples.png" in output
    assert size_of(tmp_path / "samples.png") == (32, 8)


@pytest.mark.parametrize("twin", TWINS)
def test_train_on_a_folder(run, tmp_path, twin, monkeypatch):
    """With the tiny network in place of the shipped one, which takes JAX half a minute to compile."""
    dio, asked = import_module(f"dioscuri.{twin}"), []
    colour = sections.merged(tiny.TINY, "[data]\nchannels = 3\nnum_bits = 8.")
    tiny_run = partial(dio.train, sections.write("tiny.cfg", colour, tmp_path))
    monkeypatch.setattr(dio, "train", lambda cfg, **given: asked.append(cfg) or tiny_run(**given))
    pictures = folder_of_pictures(tmp_path / "pictures", 8, 4)
    words = ("--side", 8, "--steps", 1, "--batch", 2, "--runs", tmp_path, "--name", "mine", "--twin", twin)
    output = run("train_on_a_folder.py", pictures, *words)
    assert "samples in mine.png" in output
    assert size_of(tmp_path / "mine.png") == (64, 64)
    assert (EXAMPLES.parent / asked[0]).is_file()
    assert (tmp_path / "logs-mine" / "checkpoints").is_dir()


@pytest.mark.parametrize("twin", TWINS)
def test_training_loop(run, tmp_path, twin):
    output = run("training_loop.py", "--steps", 2, "--batch", 4, "--twin", twin)
    assert "a three has the tokens [[" in output
    assert (tmp_path / "digits_maskgit" / "tokenizer" / "model.safetensors").is_file()


@pytest.mark.parametrize("twin", TWINS)
def test_fine_tune(run, tmp_path, twin):
    model = published.write_folder(tmp_path / "published", "maskgit_vqgan", "model.safetensors")
    pictures = folder_of_pictures(tmp_path / "pictures", 16, 4)
    output = run("fine_tune.py", model, pictures, "--steps", 2, "--batch", 2, "--rate", 1e-3, "--twin", twin)
    assert "levels after, in tuned" in output
    assert (tmp_path / "tuned" / "config.json").is_file()


@pytest.mark.parametrize("twin", TWINS)
def test_compare(run, tmp_path, twin):
    first = faces.write_run(tmp_path, "one", tiny.TINY)
    second = faces.write_run(tmp_path, "two", tiny.TINY, spread=0.5)
    np.save(tmp_path / "pictures.npy", faces.PICTURES)
    output = run("compare.py", first, second, "pictures.npy", "--n", 4, "--samples", 2, "--twin", twin)
    assert output.count("FD ") == output.count("bits/dim") == 2


@pytest.mark.parametrize("twin", TWINS)
def test_linear_probe(run, tmp_path, twin):
    vae = faces.write_run(tmp_path, "vae", tiny.TINY)
    output = run("linear_probe.py", vae, "--n", 60, "--chart", "probe.png", "--twin", twin)
    rows = ("pixels: 64 features", "level 0, 4x4: 128", "level 1, 8x8: 192", "all levels: 320", "of 60 test")
    assert all(row in output for row in rows)
    assert size_of(tmp_path / "probe.png")[0] == 840
