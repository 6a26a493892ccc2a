"""Configurations of sundae-vqgan as ours."""

from math import prod
from pathlib import Path

import pytest

from common.errors import UserError
from common.hparams import load
from common.plans.denoiser import make_plan, parameter_table
from common.run.families import check_options
from data_scripts.convert_toml import main

EGS = Path(__file__).parents[2] / "egs" / "sundae"

PARAMETERS = {
    "celeba256_2102_4": 199421952,
    "celeba256_2122_4": 199421952,
    "ffhq1024_2102_4_large": 671438848,
    "ffhq1024_2102_4": 671438848,
    "ffhq1024_2122_4_large": 746977280,
    "ffhq1024_2122_4": 214109184,
    "ffhq1024_2142_4_large": 822515712,
    "ffhq1024_3103_4": 214109184,
    "ffhq1024_3123_4": 235101184,
    "ffhq256_2102_4": 178429952,
    "ffhq256_3103_4": 199421952,
    "imagenet_2122_4": 200445952,
    "imagenet_2162_4_large": 916872192,
    "imagenet_2162_4": 265498624,
    "imagenet_3143_4": 916872192,
    "fashion_mnist": 155874560,
    "kmnist": 176866560,
    "mnist": 155874560,
}
"""Of the original's networks for its own files."""

TOML = """
unroll_steps = 3
[trainer]
exp_name = "x"
batch_size = 12
mini_batch_size = 4
nb_batches = [2, 5]
learning_rate = 3e-5
clip_grad = true
clip_grad_value = 0.5
checkpoint_frequency = 70
lr_scheduler_name = "constant"
[data]
vocab_size = 17
sequence_length = 64
train_root = "a"
eval_root = "b"
[vqgan]
config = "c.yaml"
checkpoint = "c.ckpt"
latent_shape = [8, 8]
[sampling]
steps = 7
nb_samples = 2
temperature = 0.9
sample_proportion = 0.4
[net]
type = "hourglass"
dim = 16
nb_heads = 2
shorten_factor = 4
depth = [1, [1, 2, 1], 1]
use_rotary = true
conditional = true
num_classes = 3
"""


@pytest.mark.parametrize("name", PARAMETERS)
def test_published_configurations_have_the_originals_number_of_parameters(name):
    options = load(EGS / f"{name}.cfg")
    plan = make_plan(options.model, options.data.grid, options.data.codebook_size)
    assert sum(prod(entry.shape) for entry in parameter_table(plan).values()) == PARAMETERS[name]
    assert options.model.legacy_positions


def converted(tmp_path, text, *words):
    (tmp_path / "some.toml").write_text(text)
    main([str(tmp_path / "some.toml"), str(tmp_path / "some.cfg"), *words])
    return load(tmp_path / "some.cfg")


def test_a_file_is_converted(tmp_path):
    options = converted(tmp_path, TOML, "--tokens", "/t", "--factor", "4")
    check_options(options)
    assert options.data.train_data_path == "/t/train"
    assert (options.data.grid, options.data.target_res, options.data.codebook_size) == (8, 32, 17)
    assert (options.model.depth, options.model.num_classes) == ((1, (1, 2, 1), 1), 3)
    assert (options.loss.unroll_steps, options.loss.weight_decay) == (3, 0.01)
    assert (options.optimizer.learning_rate, options.optimizer.gradient_clip_norm_value) == (3e-5, 0.5)
    assert (options.train.batch_size, options.train.accumulation_steps) == (12, 3)
    assert options.val.n_samples_for_validation == 20
    assert (options.synthesis.steps, options.synthesis.end_temperature) == (7, None)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("sequence_length = 64", "sequence_length = 60", "60 is no square number"),
        ("use_rotary", "use_rotor", r"\[net\] use_rotor is unknown"),
        ("dim = 16", "", r"\[net\] dim is missing"),
        ("[sampling]", "[sampler]", "sampling is missing"),
        ('"hourglass"', '"vanilla"', r"\[net\] type 'vanilla'"),
        ('"constant"', '"cosine"', "lr_scheduler_name 'cosine'"),
        ("clip_grad = true", 'optimizer_name = "sgd"', "optimizer_name 'sgd'"),
        ("[net]", "[net", "cannot be read"),
    ],
)
def test_what_is_not_understood_is_named(tmp_path, old, new, message):
    with pytest.raises(UserError, match=message):
        converted(tmp_path, TOML.replace(old, new, 1))
    assert not (tmp_path / "some.cfg").exists()
