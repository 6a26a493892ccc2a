"""Untrained runs of every family, for the public interface to open."""

from pathlib import Path

import numpy as np

from dioscuri.checkpoint import store
from dioscuri.face.model import face_of
from dioscuri.hparams import load
from tests.support import tiny, tiny_classifier, tiny_maskgit, tiny_sundae, tiny_vqgan

STEP = 7
PICTURES = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1), np.uint8)
LEFT = np.arange(8)[None, :] < np.full((8, 1), 4)
"""A mask of pixels: True in the left half."""

SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
"""Options of the smallest masked token model."""
METROPLEX = "egs/metroplex/digits.cfg"


def write_run(root, name, text, *words, spread=1.0):
    """Write a run folder for a configuration's text and return it. Its averaged weights are the initial ones
    times `spread`, its raw weights half of the initial ones."""
    folder = Path(root) / f"logs-{name}"
    folder.mkdir(parents=True)
    cfg = folder / f"hparams-{name}.cfg"
    cfg.write_text(text.replace("name = tiny", f"name = {name}"))
    hparams = load(cfg, words)
    weights = face_of(hparams.run.family).initial_weights(hparams, 1)
    weights = {key: array * np.float32(spread) for key, array in weights.items()}
    state = {"model": {key: array / 2 for key, array in weights.items()}, "ema": weights}
    info = {"best": None, "seconds": 0.0}
    for step in (STEP - 2, STEP):
        store.save(folder / "checkpoints", step, state, info, keep=2, best=STEP - 2)
    return folder


def with_tokenizer(text, tokenizer):
    """The configuration of a token model whose pictures the tokenizer encodes."""
    return text.replace("codebook_size = 16", f"codebook_size = 16\ntokenizer_path = '{tokenizer}'")


def runs(root):
    """A run of each kind, by name."""
    root = Path(root)
    vqgan = tiny_maskgit.write_tokenizer(root)
    grey = tiny_sundae.TINY.replace("dataset_source = 'tokens'", "dataset_source = 'digits'")
    grey = grey.replace("grid = 4", "grid = 8").replace("labels = True", "labels = False")
    grey = grey.replace("num_classes = 10", "num_classes = 0")
    classifier = tiny_classifier.DIGITS.read_text().replace("name = classifier_digits", "name = tiny")
    return {
        "vqgan": vqgan,
        "maskgit": write_run(root, "maskgit", with_tokenizer(tiny_maskgit.TINY, vqgan)),
        "sundae": write_run(root, "sundae", with_tokenizer(tiny_sundae.TINY, vqgan)),
        "grey": write_run(root, "grey", grey),
        "vae": write_run(root, "vae", tiny.TINY),
        "classifier": write_run(root, "classifier", classifier),
    }


__all__ = [
    "LEFT",
    "PICTURES",
    "SMALL",
    "STEP",
    "runs",
    "tiny",
    "tiny_maskgit",
    "tiny_vqgan",
    "with_tokenizer",
    "write_run",
]
