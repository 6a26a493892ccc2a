"""Options that are impossible, and options that nothing reads, are refused."""

from dataclasses import fields
from pathlib import Path
from typing import get_type_hints

import pytest

from dioscuri.contract import check_options
from dioscuri.errors import UserError
from dioscuri.hparams import load
from dioscuri.registry import family_names, family_part

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


def refused(family, *words):
    with pytest.raises(UserError) as error:
        check_options(load(SMALLEST[family], words))
    return str(error.value)


def numeric_options(family):
    sections = get_type_hints(family_part(family, "options").HParams)
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
