"""The smallest SUNDAE: an hourglass on 4x4 tokens of 16 codes, those of the tiny tokenizer."""

from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from dioscuri.hparams import load
from tests.support import engines, tiny_maskgit

MODEL = """[model]
dim = 16
depth = (1, 1, 1)
shorten_factor = 4
nb_heads = 2
dim_head = 8
num_classes = 10

[loss]
unroll_steps = 2
weight_decay = 0.01

"""
SYNTHESIS = """[synthesis]
synthesis_mode = 'generation'
load_ema_weights = True
batch_size = 4
n_generation_batches = 2
steps = 5
min_steps = 1
n_samples = 6
"""


def text():
    """The configuration of the tiny masked token model with SUNDAE's network, loss and sampler."""
    before, rest = tiny_maskgit.TINY.replace("family = maskgit", "family = sundae").split("[model]")
    middle = rest[rest.index("[optimizer]") : rest.index("[synthesis]")]
    return before + MODEL + middle + SYNTHESIS


def write_tiny(folder):
    """Write the configuration into a folder; returns its path."""
    path = folder / "tiny_sundae.cfg"
    path.write_text(text())
    return path


def tiny(*overrides):
    """Options of the tiny model."""
    with TemporaryDirectory() as folder:
        return load(write_tiny(Path(folder)), overrides)


make_engine = partial(engines.make_engine, options=tiny)
