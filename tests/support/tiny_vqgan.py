"""The smallest tokenizer, with a discriminator, on the digits: 8x8 pixels to 4x4 tokens."""

from pathlib import Path
from tempfile import TemporaryDirectory

from dioscuri.hparams import load

TINY = """
[run]
family = vqgan
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

[model]
MODEL
[discriminator]
type = 'patchgan'
num_layers = 1
ndf = 8

[loss]
disc_start = 2
disc_weight = 0.5

[optimizer]
type = 'Adam'
learning_rate_scheme = 'constant'
learning_rate = 2e-3
warmup_steps = 1.
decay_steps = 10
decay_start = 5
min_learning_rate = 1e-3
decay_rate = 0.5
beta1 = 0.5
beta2 = 0.9
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
synthesis_mode = 'reconstruction'
load_ema_weights = True
batch_size = 4
n_samples = 10
"""

MODEL = """
architecture = 'maskgit'
channel_mult = [1, 2]
num_res_blocks = 1
norm_groups = 4
z_channels = 4
embedding_dim = 4
num_embeddings = 16
hidden_channels = 8
"""


def write_tiny(folder):
    """Write the configuration into a folder; returns its path."""
    path = folder / "tiny.cfg"
    path.write_text(TINY.replace("MODEL", MODEL.strip()))
    return path


def tiny(*overrides):
    """Options of the tiny tokenizer."""
    with TemporaryDirectory() as folder:
        return load(write_tiny(Path(folder)), overrides)
