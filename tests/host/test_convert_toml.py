"""Conversion of sundae-vqgan's configurations."""

import re
from dataclasses import replace
from math import prod
from pathlib import Path

import pytest

from data_scripts.convert_toml import WHOLE_SET, main
from dioscuri.contract import check_options
from dioscuri.errors import UserError
from dioscuri.families.sundae.plan import make_plan, parameter_table
from dioscuri.hparams import load

EGS = Path(__file__).parents[2] / "egs" / "sundae"

PUBLISHED = """
file                  K batch  rate every codes grid steps   T T_end   p  dim heads  depth classes parameters
celeba256_2102_4      3    48 3e-05  5000  1024   16   200 0.8   0.8 0.5 1024     8 2/12/2       0  199421952
celeba256_2122_4      3    48 3e-05  5000  1024   16   200 0.8   0.8 0.5 1024     8 2/12/2       0  199421952
ffhq1024_2102_4_large 2     8 3e-05  5000  8192   32   100 0.7   0.7 0.5 2048     8 2/10/2       0  671438848
ffhq1024_2102_4       2    16 3e-05  5000  8192   32   100   1   0.7 0.5 2048     8 2/10/2       0  671438848
ffhq1024_2122_4_large 2     8 3e-05  5000  8192   32   100 0.7   0.7 0.5 2048     8 2/12/2       0  746977280
ffhq1024_2122_4       3    10 5e-06  5000  8192   32    50   1   0.7 0.5 1024     8 2/12/2       0  214109184
ffhq1024_2142_4_large 2     8 3e-05  5000  8192   32   100 0.7   0.7 0.5 2048     8 2/14/2       0  822515712
ffhq1024_3103_4       2    16 3e-05  5000  8192   32   100 0.7   0.7 0.5 1024     8 3/10/3       0  214109184
ffhq1024_3123_4       2    16 3e-05  5000  8192   32   100 0.7   0.7 0.5 1024     8 3/12/3       0  235101184
ffhq256_2102_4        2    64 3e-05  5000  1024   16   100 0.8   0.8 0.5 1024     8 2/10/2       0  178429952
ffhq256_3103_4        2    32 3e-05  5000  1024   16   100 0.8   0.8 0.5 1024     8 3/10/3       0  199421952
imagenet_2122_4       3   192 1e-06 10000  1024   16   200 0.8   0.7 0.7 1024     8 2/12/2    1000  200445952
imagenet_2162_4_large 3    64 3e-05 10000  1024   16   200 0.8   0.7 0.7 2048    12 2/16/2    1000  916872192
imagenet_2162_4       3   128 1e-06 10000  1024   16   200 0.8   0.7 0.7 1024    12 2/16/2    1000  265498624
imagenet_3143_4       3    64 1e-06 10000  1024   16   200 0.8   0.7 0.7 2048    12 3/14/3    1000  916872192
fashion_mnist         2     8 3e-05  5000   256   28    50 0.9   0.9   1 1024     8  2/8/2      10  155874560
kmnist                3    10 3e-05 20000   256   28   100 0.8   0.8   1 1024     8 2/10/2      10  176866560
mnist                 2     8 3e-05  5000   256   28    50 0.9   0.9   1 1024     8  2/8/2      10  155874560
"""
"""The original's files: K passes, batches between checkpoints, side of the grid, temperature in the first and
last sampling step, fraction p that is resampled."""
_HEAD, *ROWS = (line.split() for line in PUBLISHED.strip().splitlines())

GREY = """
unroll_steps = {unroll}
[trainer]
batch_size = {batch}
nb_batches = [256, 32]
learning_rate = 3e-5
checkpoint_frequency = {every}
[data]
vocab_size = 256
sequence_length = 784
train_root = "data/discrete-{name}/train"
eval_root = "data/discrete-{name}/eval"
[sampling]
steps = {steps}
nb_samples = 4
temperature = {temperature}
end_temperature = {temperature}
sample_proportion = 1.0
end_sample_proportion = 1.0
[net]
dim = 1024
nb_heads = 8
shorten_factor = 4
depth = [2, {depth}, 2]
use_rotary = true
conditional = true
num_classes = 10
"""
DIGITS = {"unroll": 2, "batch": 8, "every": 5000, "steps": 50, "temperature": 0.9, "depth": 8}
KUZUSHIJI = {"unroll": 3, "batch": 10, "every": 20000, "steps": 100, "temperature": 0.8, "depth": 10}

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


@pytest.mark.parametrize(("name", "row"), [(row[0], row[1:]) for row in ROWS])
def test_published_configurations_have_the_originals_numbers(name, row):
    options = load(EGS / f"{name}.cfg")
    data, model, train, drawing = options.data, options.model, options.train, options.synthesis
    plan = make_plan(model, data.grid, data.codebook_size)
    n_parameters = sum(prod(entry.shape) for entry in parameter_table(plan).values())
    rate, every = options.optimizer.learning_rate, train.checkpoint_and_eval_interval_in_steps
    found = [options.loss.unroll_steps, train.batch_size, rate, every, data.codebook_size, data.grid]
    found += [drawing.steps, drawing.temperature, drawing.end_temperature, drawing.sample_proportion]
    found += [model.dim, model.nb_heads, *model.depth, model.num_classes, n_parameters]
    assert found == [float(number) for words in row for number in words.split("/")]
    assert drawing.end_sample_proportion == drawing.sample_proportion
    assert (model.shorten_factor, model.legacy_positions, drawing.stop_rule) == (4, True, "masked")
    assert options.optimizer.learning_rate_scheme == "constant"


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
    ("name", "ours", "values"),
    [
        ("mnist", "mnist", DIGITS),
        ("fashionmnist", "fashion_mnist", DIGITS),
        ("kmnist", "kmnist", KUZUSHIJI),
    ],
)
def test_grey_levels_are_those_of_the_set_that_the_original_names(tmp_path, name, ours, values):
    found = converted(tmp_path, GREY.format(name=name, **values))
    shipped = load(EGS / f"{ours}.cfg")
    assert replace(found, run=replace(found.run, name=shipped.run.name)) == shipped


def test_another_set_of_grey_levels_must_be_named(tmp_path):
    text = GREY.format(name="letters", **DIGITS)
    with pytest.raises(UserError, match=r"train_root 'data/discrete-letters/train' .* by --pixels FOLDER"):
        converted(tmp_path, text)
    options = converted(tmp_path, text, "--pixels", "/d/letters")
    assert (options.data.dataset_source, options.data.dataset_path) == ("mnist_grey", "/d/letters")


@pytest.mark.parametrize("line", ["", "nb_batches = [2, 0]"])
def test_without_a_number_of_batches_the_whole_set_is_validated(tmp_path, line):
    options = converted(tmp_path, TOML.replace("nb_batches = [2, 5]", line))
    assert options.val.n_samples_for_validation == WHOLE_SET


def test_what_is_left_out_is_reported_in_one_line(tmp_path, capsys):
    converted(tmp_path, TOML.replace("batch_size", "use_amp = false\nuse_cuda = true\nbatch_size", 1))
    first, second = capsys.readouterr().out.splitlines()
    assert first.partition(": not carried over: ")[2] == (
        "[trainer] exp_name, use_amp, use_cuda, nb_batches[0]; [data] eval_root, train_root; "
        "[vqgan] config, checkpoint"
    )
    assert "check its paths" in second


def test_a_missing_tokenizer_may_be_trained_later(tmp_path):
    options = converted(tmp_path, TOML, "--tokenizer", "/nowhere/logs-x")
    assert options.data.tokenizer_path == "/nowhere/logs-x"


def test_a_nest_of_brackets_is_one_line(tmp_path):
    (tmp_path / "deep.toml").write_text("a = " + "[" * 100_000)
    with pytest.raises(UserError, match=r"deep\.toml cannot be read"):
        main([str(tmp_path / "deep.toml"), str(tmp_path / "out.cfg")])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("sequence_length = 64", "sequence_length = 60", "60 is not a square number"),
        ("use_rotary", "use_rotor", r"\[net\] use_rotor is unknown"),
        ("dim = 16", "", r"\[net\] dim is missing"),
        ("[sampling]", "[sampler]", "sampler is unknown"),
        ("unroll_steps = 3", "", "unroll_steps is missing"),
        ('"hourglass"', '"vanilla"', r"\[net\] type 'vanilla'"),
        ('"constant"', '"cosine"', "lr_scheduler_name 'cosine'"),
        ("clip_grad = true", 'optimizer_name = "sgd"', "optimizer_name 'sgd'"),
        ("[net]", "[net", "cannot be read"),
        ("num_classes = 3", "", r"\[net\] conditional is true: give num_classes"),
        ("num_classes = 3", "num_classes = 0", r"\[net\] conditional is true: give num_classes"),
        ("mini_batch_size = 4", "mini_batch_size = 5", r"mini_batch_size 5 must divide batch_size 12"),
        ("mini_batch_size = 4", "mini_batch_size = 24", r"mini_batch_size 24 must divide batch_size 12"),
        (
            "mini_batch_size = 4",
            "mini_batch_size = 0",
            "mini_batch_size must be a whole number above 0, not 0",
        ),
        ("[8, 8]", "[16, 16]", r"latent_shape \[16, 16\] must be \[8, 8\], for sequence_length 64"),
        ("[8, 8]", "[4, 16]", r"latent_shape \[4, 16\] must be \[8, 8\]"),
        ("= 64", '= "64"', r"\[data\] sequence_length must be a whole number above 0, not '64'"),
        ("= 64", "= -64", r"\[data\] sequence_length must be a whole number above 0, not -64"),
        ("= 64", "= true", r"\[data\] sequence_length must be a whole number above 0, not True"),
        ("[2, 5]", "[256]", r"\[trainer\] nb_batches must be two whole numbers from 0 on, not \[256\]"),
        ("3e-5", "nan", r"\[trainer\] learning_rate must be a number from 0 on"),
        ("conditional = true", "conditional = 1", r"\[net\] conditional must be true or false, not 1"),
        ("[1, [1, 2, 1], 1]", "[1, [1, 2], 1]", r"\[net\] depth must be a number of layers, or \[before"),
        ("[1, [1, 2, 1], 1]", "[1, 2.5, 1]", r"\[net\] depth must be a number of layers"),
        ("= 4\ndepth", '= "4"\ndepth', r"\[net\] shorten_factor must be a whole number from 0 on, or a list"),
        ("= 4\ndepth", "= [4]\ndepth", r"some.toml: as a .cfg, .*1 factors for the 2 levels"),
        ("dim = 16", "dim = 99999", r"some.toml: as a .cfg, \[model\] dim must be at most"),
        ("unroll_steps = 3", "unroll_steps = []", r"unroll_steps must be a whole number above 0"),
        ("unroll_steps = 3", "unroll_steps = 3\nseed = 1", "seed is unknown"),
    ],
)
def test_what_is_not_understood_is_named(tmp_path, old, new, message):
    with pytest.raises(UserError, match=message):
        converted(tmp_path, TOML.replace(old, new, 1))
    assert [path.name for path in tmp_path.iterdir()] == ["some.toml"]


@pytest.mark.parametrize(
    ("text", "words", "message"),
    [
        ("trainer = 3", (), "trainer must be a table, not 3"),
        (TOML.partition("[vqgan]")[0], (), "sampling is missing"),
        (GREY.format(name="mnist", **DIGITS).replace("784", "64"), (), "must be 784 without"),
        (TOML, ("--factor", "x"), "--factor 'x' must be a whole number above 0"),
        (TOML, ("--factor", "0"), "--factor '0' must be a whole number above 0"),
        (TOML, ("--pixels", "/d"), r"\[vqgan\] makes tokens of pictures"),
    ],
)
def test_what_cannot_be_converted_leaves_no_file(tmp_path, text, words, message):
    with pytest.raises(UserError, match=message):
        converted(tmp_path, text, *words)
    assert [path.name for path in tmp_path.iterdir()] == ["some.toml"]


def test_the_name_of_a_folder_is_no_file(tmp_path):
    (tmp_path / "some.toml").write_text(TOML)
    with pytest.raises(UserError, match=r"out\.cfg/' is the name of a folder: give that of a file$"):
        main([str(tmp_path / "some.toml"), f"{tmp_path}/out.cfg/"])
    assert [path.name for path in tmp_path.iterdir()] == ["some.toml"]


TEXT8 = """
unroll_steps = 4
[trainer]
exp_name = "text8"
batch_size = 64
nb_batches = [100, 10]
learning_rate = 2e-5
checkpoint_frequency = 2000
metric_names = ["accuracy"]
[data]
name = "text8"
root = "data"
sequence_length = 24
vocabulary_size = 27
[model]
embedding_dim = 256
nb_layers = 6
nb_heads = 4
use_scalenorm = true
use_glu = false
use_rotary = true
[sample]
temperature = 0.7
sample_proportion = 0.4
sample_frequency = 1
steps = 500
min_steps = 20
"""


def test_a_text8_file_is_converted(tmp_path, capsys):
    """0.1.0 knew only the TOML files of pictures."""
    (tmp_path / "mine.toml").write_text(TEXT8)
    main([str(tmp_path / "mine.toml"), str(tmp_path / "mine.cfg"), "--texts", str(tmp_path / "texts")])
    h = load(tmp_path / "mine.cfg")
    assert (h.run.name, h.data.sequence_length, h.data.codebook_size) == ("mine", 24, 27)
    assert h.data.train_data_path == str(tmp_path / "texts")
    assert (h.model.architecture, h.model.dim, h.model.depth, h.model.use_glu) == (
        "transformer",
        256,
        6,
        False,
    )
    assert (h.model.nb_heads, h.model.dim_head) == (8, 64), "what the original builds, whatever the file says"
    assert (h.loss.unroll_steps, h.optimizer.learning_rate, h.train.batch_size) == (4, 2e-5, 64)
    assert h.train.checkpoint_and_eval_interval_in_steps == 2000
    assert (h.val.batch_size, h.val.n_samples_for_validation) == (64, 640)
    assert (h.synthesis.temperature, h.synthesis.sample_proportion) == (0.7, 0.4)
    assert (h.synthesis.steps, h.synthesis.min_steps) == (500, 20)
    output = capsys.readouterr().out
    for name in ("exp_name", "root", "nb_heads", "sample_frequency", "nb_batches[0]"):
        assert name in output


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("nb_layers = 6", "nb_layer = 6", "[model] nb_layer is unknown"),
        ("embedding_dim = 256", "", "[model] embedding_dim is missing"),
        ("steps = 500", "steps = 0", "[sample] steps must be a whole number above 0"),
        ("use_glu = false", "use_glu = 3", "[model] use_glu must be true or false"),
        ("unroll_steps = 4", "", "unroll_steps is missing"),
    ],
)
def test_what_of_a_text8_file_is_not_understood_is_named(tmp_path, old, new, message):
    (tmp_path / "mine.toml").write_text(TEXT8.replace(old, new))
    with pytest.raises(UserError, match=re.escape(message)):
        main([str(tmp_path / "mine.toml"), str(tmp_path / "mine.cfg")])
    assert not (tmp_path / "mine.cfg").exists()
