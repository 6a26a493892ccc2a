"""What the smallest configurations of all families share, as sections and as overrides of a shipped one."""

from configparser import RawConfigParser
from functools import partial
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

from dioscuri.hparams import load

SHARED = """
[run]
name = tiny
seed = 3
num_gpus = 0
num_cpus = 2
max_allowed_checkpoints = 2

[data]
dataset_source = 'digits'
train_data_path = ''
val_data_path = ''
synthesis_data_path = ''
target_res = 8
channels = 1
num_bits = 8.
random_horizontal_flip = False

[optimizer]
learning_rate_scheme = 'constant'
warmup_steps = 1.
decay_steps = 10
decay_start = 5
min_learning_rate = 1e-3
decay_rate = 0.5
beta1 = 0.9
beta2 = 0.999
epsilon = 1e-8
clip_gradient_norm = False
gradient_clip_norm_value = 200.
gradient_skip = True
gradient_skip_threshold = 1e6
max_skips_in_row = 4

[train]
total_train_steps = 8
batch_size = 8
ema_decay = 0.5
resume_from_ema = False
logging_interval_in_steps = 1
checkpoint_and_eval_interval_in_steps = 3

[val]
n_samples_for_validation = 20
batch_size = 8

[synthesis]
load_ema_weights = True
batch_size = 4
"""

SHORT = (
    "train.batch_size=8",
    "train.logging_interval_in_steps=1",
    "train.checkpoint_and_eval_interval_in_steps=2",
    "val.n_samples_for_validation=8",
    "val.batch_size=8",
    "synthesis.batch_size=8",
)
"""Overrides that make a run of a shipped configuration short."""


def merged(*texts):
    """The shared sections, whose options those of the texts replace and join, as one text."""
    parser, result = RawConfigParser(), StringIO()
    for text in (SHARED, *texts):
        parser.read_string(text)
    parser.write(result)
    return result.getvalue()


def write(name, text, folder):
    """Write a configuration into a folder; returns its path."""
    path = folder / name
    path.write_text(text)
    return path


def options(text, *overrides):
    """Options of a configuration's text."""
    with TemporaryDirectory() as folder:
        return load(write("tiny.cfg", text, Path(folder)), overrides)


def writer_and_options(name, text):
    """Of a configuration: a function that writes it into a folder, and one from overrides to its options."""
    return partial(write, name, text), partial(options, text)
