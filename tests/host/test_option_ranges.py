"""Options that are impossible, and options that nothing reads, are refused."""

import ast
import re
from dataclasses import fields
from pathlib import Path
from typing import get_type_hints

import pytest

from dioscuri.cli.runs import train_command
from dioscuri.contract import check_options
from dioscuri.errors import UserError
from dioscuri.hparams import load
from dioscuri.library.new import new
from dioscuri.registry import family_module, family_names
from dioscuri.twins import Twin
from tests.support.fake_engine import FakeEngine
from tests.support.tiny import TINY, write_tiny

ROOT = Path(__file__).parents[2]
SMALLEST = {
    family: ROOT / "egs" / family / name
    for family, name in {
        "classifier": "digits.cfg",
        "hierarchical_vae": "digits.cfg",
        "maskgit": "digits.cfg",
        "metroplex": "digits.cfg",
        "sundae": "digits.cfg",
        "vqgan": "digits.cfg",
    }.items()
}
NUMBERS = (int, float)
IDLE = {"gumbel_kl_weight": 1.0}


def refused(family, *words):
    with pytest.raises(UserError) as error:
        check_options(load(SMALLEST[family], words))
    return str(error.value)


def numeric_options(family):
    sections = get_type_hints(family_module(family, "options").HParams)
    for section, kind in sections.items():
        hints = get_type_hints(kind)
        for declared in fields(kind):
            if hints[declared.name] in NUMBERS and not declared.metadata["choices"]:
                yield f"{section}.{declared.name}"


@pytest.mark.parametrize("family", family_names())
def test_every_number_has_a_range(family):
    """Loading refuses them: nothing is built, counted or allocated for such numbers."""
    names = list(numeric_options(family))
    assert len(names) > 30
    for name in names:
        for number in ("2**255", "-2**255"):
            assert f"[{name.partition('.')[0]}] {name.partition('.')[2]} must be at" in refused(
                family, f"{name}={number}"
            )
        if name not in (
            "run.seed",
            "optimizer.gradient_clip_norm_value",
            "optimizer.gradient_skip_threshold",
        ):
            assert " must be " in refused(family, f"{name}=10**18")


@pytest.mark.parametrize(
    ("family", "words", "message"),
    [
        ("hierarchical_vae", "data.target_res=10**18", "target_res must be at most"),
        (
            "hierarchical_vae",
            "data.target_res=10**6 data.dataset_source=custom",
            "target_res must be at most 8192",
        ),
        ("hierarchical_vae", "run.num_cpus=2**255", "num_cpus must be at most"),
        ("hierarchical_vae", "model.num_output_mixtures=10**6", "num_output_mixtures must be at most"),
        ("metroplex", "model.num_mixtures=10**6", "num_mixtures must be at most"),
        ("maskgit", "optimizer.min_learning_rate=1e6", "min_learning_rate must be at most"),
        (
            "hierarchical_vae",
            "optimizer.learning_rate=1e-3 optimizer.min_learning_rate=1e-2",
            "must not be more than learning_rate",
        ),
        ("maskgit", "optimizer.learning_rate=10**4", "learning_rate must be at most"),
    ],
)
def test_numbers_that_no_run_can_have(family, words, message):
    assert message in refused(family, *words.split())


@pytest.mark.parametrize(
    ("family", "words", "message"),
    [
        (
            "hierarchical_vae",
            "data.text_seq_len=8",
            "text_seq_len applies only if dataset_source is 'tfrecords'",
        ),
        ("hierarchical_vae", "data.padding_id=3", "padding_id applies only if text_seq_len is not off"),
        ("hierarchical_vae", "data.legacy_crop=True", "legacy_crop applies only if"),
        ("hierarchical_vae", "data.skip_corrupt=True", "skip_corrupt applies only if"),
        ("hierarchical_vae", "data.fast_jpeg=True", "fast_jpeg applies only if"),
        ("hierarchical_vae", "data.labels=True", "uses no labels for this model"),
        ("hierarchical_vae", "model.num_classes=10", "labels must be True for a model of 10 classes"),
        ("metroplex", "synthesis.guidance_scale=1.", "guidance_scale needs a model with classes"),
        ("vqgan", "data.labels=True", "uses no labels for this model"),
        ("metroplex", "data.labels=True", "uses no labels for this model"),
        (
            "maskgit",
            "data.labels=True model.num_classes=0",
            "uses no labels for this model",
        ),
        ("classifier", "optimizer.power=2", "power applies only if learning_rate_scheme is 'polynomial'"),
        ("classifier", "optimizer.num_cycles=3", "num_cycles applies only if"),
        ("classifier", "train.ema_power=0.5", "ema_power applies only if ema_warmup is 'power'"),
        (
            "classifier",
            "train.stabilizer_interval=5",
            "stabilizer_interval applies only if stabilizer is 'nan'",
        ),
        ("vqgan", "model.gumbel_kl_weight=1", "gumbel_kl_weight applies only if quantizer is 'gumbel'"),
        ("vqgan", "model.fsq_levels=[8,8]", "fsq_levels applies only if quantizer is 'fsq'"),
        ("vqgan", "model.entropy_type=argmax", "entropy_type applies only if entropy_loss_ratio"),
    ],
)
def test_options_that_nothing_reads(family, words, message):
    assert message in refused(family, *words.split())


@pytest.mark.parametrize(
    ("family", "words", "message"),
    [
        ("maskgit", "model.register=2", "register applies only if architecture is 'halton'"),
        ("maskgit", "model.block_num_heads=4", "block_num_heads applies only if architecture is 'uvit'"),
        ("maskgit", "model.embedding_size=8", "embedding_size applies only if use_conv_in_out is True"),
        ("maskgit", "loss.self_cond_prob=0.5", "self_cond_prob applies only if model.self_cond is True"),
        ("maskgit", "loss.critic_loss_weight=2", "applies only if model.critic is 'token' or 'self'"),
        (
            "hierarchical_vae",
            "synthesis.n_samples=3 synthesis.synthesis_mode=generation",
            "n_samples applies",
        ),
        ("metroplex", "synthesis.n_samples=3 synthesis.synthesis_mode=div_stats", "n_samples applies only"),
        ("metroplex", "synthesis.importance_samples=3 synthesis.synthesis_mode=mixing", "is 'reconstruc"),
        ("metroplex", "synthesis.encodings_path=a", "applies only if synthesis_mode is 'decoding'"),
        ("vqgan", "synthesis.extractor=dinov2 synthesis.synthesis_mode=encoding", "is 'reconstruction'"),
        ("vqgan", "synthesis.tokens_path=a", "applies only if synthesis_mode is 'encoding' or 'decoding'"),
        ("maskgit", "synthesis.n_samples=3", "n_samples applies only if synthesis_mode is 'inpainting'"),
        ("sundae", "synthesis.tokens_path=a", "tokens_path applies only if synthesis_mode is 'encoding'"),
        ("sundae", "synthesis.n_pictures=3 synthesis.synthesis_mode=inpainting", "is 'generation'"),
        ("maskgit", "synthesis.film=gif synthesis.synthesis_mode=animation", "film applies only if"),
        ("maskgit", "synthesis.split=train", "split applies only if synthesis_mode is 'inpainting' or"),
        ("sundae", "synthesis.split=train synthesis.synthesis_mode=animation", "split applies only if"),
        ("metroplex", "synthesis.split=train synthesis.synthesis_mode=div_stats", "split applies only if"),
        ("hierarchical_vae", "synthesis.split=train synthesis.synthesis_mode=generation", "split applies"),
        ("maskgit", "synthesis.sheet_only=True synthesis.synthesis_mode=encoding", "is 'generation'"),
        ("maskgit", "synthesis.mask_path=a.png", "applies only if synthesis_mode is 'inpainting'"),
        (
            "maskgit",
            "synthesis.remask_rate=0.2",
            "remask_rate applies only if remask is 'cap' or 'random' or",
        ),
        ("sundae", "model.use_glu=False", "use_glu applies only if architecture is 'transformer'"),
        ("sundae", "synthesis.min_steps=3 synthesis.early_stop=False", "applies only if early_stop is True"),
        ("vqgan", "model.mid_attention=False", "applies only if architecture is 'taming' or 'movq'"),
        ("vqgan", "discriminator.blur=False", "blur applies only if type is 'stylegan'"),
        ("vqgan", "discriminator.type=none loss.disc_weight=2", "only if discriminator.type is not off"),
        ("metroplex", "model.head_dim=64", "head_dim applies only if transformer is True"),
        ("metroplex", "model.attn_heads=2", "attn_heads applies only if attn_res is not off"),
        ("metroplex", "loss.l2_weight=0.1", "l2_weight applies only if use_weight_decay is True"),
        ("hierarchical_vae", "loss.cond_dropout_prob=0.1", "applies only if model.num_classes is not off"),
        ("metroplex", "loss.cond_dropout_prob=0.1", "applies only if model.num_classes is not off"),
        (
            "maskgit",
            "loss.cond_dropout_prob=0.2 model.num_classes=0",
            "or model.add_cross_attention is True, or model.architecture is 'uvit' or 'lucidrains' or ",
        ),
        ("classifier", "run.num_cpu_devices=2 run.num_gpus=1", "applies only if num_gpus is 0, but it is 1"),
        ("vqgan", "loss.vgg_path=vgg16.safetensors", "vgg_path applies only if lpips_path is not off"),
        (
            "classifier",
            "optimizer.max_skips_in_row=5 optimizer.gradient_skip=False",
            "max_skips_in_row applies only if gradient_skip is True",
        ),
        ("classifier", "run.wandb_project=mine", "wandb_project applies only if wandb is True"),
        ("classifier", "train.checkpoint_activations=True", "is not used by this model of family 'classif"),
        ("metroplex", "train.scan_blocks=True", "scan_blocks is not used by this model of family 'metro"),
        ("vqgan", "train.scan_blocks=True", "scan_blocks is not used by this model of family 'vqgan'"),
        (
            "sundae",
            "train.scan_blocks=True model.architecture=transformer",
            "scan_blocks is not used by this model of family 'sundae'",
        ),
    ],
)
def test_options_of_another_network_loss_or_mode(family, words, message):
    assert message in refused(family, *words.split())


def written(folder, text, change, name="mine.cfg"):
    """A configuration changed by hand: a section and a line in it."""
    section, line = change
    path = folder / name
    path.write_text(text.replace(f"[{section}]\n", f"[{section}]\n{line}\n"))
    return path


@pytest.mark.parametrize(
    ("family", "change", "message"),
    [
        ("classifier", ("data", "legacy_crop = True"), "legacy_crop applies only if dataset_source is"),
        ("vqgan", ("model", "gumbel_kl_weight = 1."), "gumbel_kl_weight applies only if quantizer is"),
        ("maskgit", ("model", "register = 4"), "register applies only if architecture is 'halton'"),
    ],
)
def test_a_file_gives_no_option_that_nothing_reads(family, change, message, tmp_path):
    path = written(tmp_path, SMALLEST[family].read_text(), change)
    with pytest.raises(UserError, match=message) as error:
        load(path)
    assert str(path) in str(error.value)


def test_paths_that_the_source_does_not_read_are_refused():
    """A run that forgets `dataset_source=custom` would train on other pictures."""
    shipped = SMALLEST["vqgan"]
    with pytest.raises(UserError, match=r"train_data_path is not read by dataset_source 'digits'.*: leave"):
        load(shipped, ["data.train_data_path=/pictures"])
    load(shipped, ["data.train_data_path=/pictures", "data.dataset_source=custom"])
    load(shipped, ["data.train_data_path="])


def test_a_file_may_hold_what_the_command_line_makes_idle_and_what_a_later_call_reads(tmp_path):
    shipped = SMALLEST["vqgan"].read_text()
    gumbel = written(tmp_path, shipped, ("model", "quantizer = 'gumbel'\ngumbel_kl_weight = 1."))
    load(gumbel)
    load(gumbel, ["model.quantizer=nearest"])
    load(written(tmp_path, SMALLEST["maskgit"].read_text(), ("synthesis", "outpaint = True")))


def test_the_copy_of_a_run_keeps_what_nothing_reads_any_more(tmp_path):
    """Version 0.1.0 took such options, and a run may be continued with other data."""
    shipped = SMALLEST["vqgan"].read_text()
    load(written(tmp_path, shipped, ("data", "skip_corrupt = True"), name="hparams-vqgan_digits.cfg"))


def test_python_refuses_them_in_the_same_words():
    with pytest.raises(UserError, match="gumbel_kl_weight applies only if quantizer is 'gumbel'"):
        new("torch", "vqgan", seed=0, tokenizer=None, device="cpu", dtype=None, options=IDLE)


@pytest.mark.parametrize(
    ("twin", "word", "other"),
    [
        ("jax", "train.compile=True", "torch"),
        ("torch", "train.scan_blocks=True", "jax"),
        ("torch", "run.num_cpu_devices=2", "jax"),
    ],
)
def test_options_of_the_other_twin(twin, word, other, tmp_path):
    """The command line and Python refuse them; a file may hold the options of both twins."""
    section, option, value = re.split("[.=]", word)
    words = ["run.num_gpus=0", "train.total_train_steps=1"]
    cfg = write_tiny(tmp_path)
    with pytest.raises(UserError) as command:
        train_command(Twin(twin, FakeEngine, FakeEngine), tmp_path, [str(cfg), *words, word])
    message = f"[{section}] {option} applies only to the twin '{other}', not to '{twin}': leave it out"
    assert str(command.value) == f"command line: {message}"
    assert not (tmp_path / "logs-tiny").exists()
    with pytest.raises(UserError) as python:
        new(
            twin,
            "hierarchical_vae",
            seed=0,
            tokenizer=None,
            device="cpu",
            dtype=None,
            options={f"{section}__{option}": ast.literal_eval(value)},
        )
    assert str(python.value) == f"new: {message}"
    train_command(
        Twin(twin, FakeEngine, FakeEngine),
        tmp_path,
        [str(cfg), *words, f"{section}.{option}={False if value == 'True' else 0}"],
    )
    shared = written(tmp_path, TINY, (section, f"{option} = {value}"))
    train_command(Twin(twin, FakeEngine, FakeEngine), tmp_path, [str(shared), *words, "run.name=shared"])
