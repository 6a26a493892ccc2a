"""`dioscuri evaluate` called with pictures and arrays of a test, without an engine."""

import json

import numpy as np
from PIL import Image

from dioscuri.cli.evaluate import evaluate


def no_engine(twin, hparams):
    raise AssertionError(f"no engine is needed, yet {twin} was asked for {hparams}")


def run(*words):
    evaluate([str(word) for word in words], no_engine)


def table(path, *words):
    """The numbers that a command line writes to a JSON file."""
    run(*words, "--json", path)
    return json.loads(path.read_text())


def digits(seed, n, side=4, channels=1):
    """Random pictures uint8 (N, H, W, C)."""
    return np.random.default_rng(seed).integers(0, 256, (n, side, side, channels), np.uint8)


def write_folder(folder, pictures):
    folder.mkdir()
    for i, picture in enumerate(pictures):
        Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture).save(folder / f"{i:04d}.png")
    return folder


def write_npy(path, array):
    np.save(path, array)
    return path
