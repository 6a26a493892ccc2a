"""A new model has random weights, and its options are checked like those of a `.cfg`."""

from importlib import import_module

import numpy as np
import pytest

from dioscuri import UserError
from dioscuri import torch as dio
from tests.support.faces import PICTURES

SMALL = {"target_res": 8, "channels": 1}
NEW = {
    "vqgan": {**SMALL, "hidden_channels": 32, "norm_groups": 8, "z_channels": 8, "embedding_dim": 8},
    "hierarchical_vae": SMALL,
    "metroplex": {**SMALL, "width": 32, "depth": 2},
    "classifier": SMALL,
    "maskgit": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_classes": 10},
    "sundae": {"dim": 32, "nb_heads": 2, "dim_head": 16, "depth": 2, "shorten_factor": 0},
}


@pytest.fixture(scope="module")
def tokenizer():
    return dio.new("vqgan", **NEW["vqgan"])


@pytest.mark.parametrize("family", NEW)
def test_weights_are_drawn_from_the_seed_and_outputs_depend_on_inputs(tokenizer, family):
    beside = tokenizer if family in ("maskgit", "sundae") else None
    first, same, other = (dio.new(family, tokenizer=beside, seed=s, **NEW[family]) for s in (3, 3, 4))
    weights = first._network.weights()
    assert all((weights[name] == array).all() for name, array in same._network.weights().items())
    assert any((weights[name] != array).any() for name, array in other._network.weights().items())
    if "reconstruct" in first.does:
        made = first.reconstruct(PICTURES)
        assert (made[0] != made[1]).any()
    if family == "classifier":
        logits = first.encode(PICTURES)["logits"]
        assert np.isfinite(logits).all()
        assert (logits[0] != logits[1]).any()
    if "generate" in first.does:
        made = first.generate(2, **({"steps": 2} if beside else {}))
        assert made.shape == (2, 8, 8, 1)
        assert (made[0] != made[1]).any()


def test_both_twins_draw_the_same_weights():
    options = {**NEW["maskgit"], "grid": 4, "codebook_size": 16, "target_res": 8, "channels": 1}
    first, second = (
        import_module(f"dioscuri.{twin}").new("maskgit", seed=5, **options)._network.weights()
        for twin in ("torch", "jax")
    )
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name])


def test_a_tokenizer_tells_grid_codes_and_pictures(tokenizer):
    model = dio.new("maskgit", tokenizer=tokenizer, **NEW["maskgit"])
    assert (model.grid, model.codebook_size, model.picture_shape) == (4, 1024, (8, 8, 1))
    assert model.generate(classes=[1], steps=2, guidance_scale=1.0).shape == (1, 8, 8, 1)


def test_every_family_has_usual_options():
    for family in ("hierarchical_vae", "vqgan", "metroplex", "classifier"):
        assert dio.new(family).picture_shape == (32, 32, 3)


def test_a_cfg_is_a_model_too():
    model = dio.new("egs/hierarchical_vae/digits.cfg", num_output_mixtures=2)
    assert model.picture_shape == (8, 8, 1)
    assert model.hparams.model.num_output_mixtures == 2


@pytest.mark.parametrize(
    ("family", "options", "says"),
    [
        ("maskgi", {}, r"family 'maskgi' is unknown \(did you mean 'maskgit'\?\)"),
        (3, {}, "new takes the name of a family or a .cfg file, not an int"),
        ("none.cfg", {}, "configuration none.cfg does not exist"),
        ("maskgit", {"hiden_size": 3}, r"option 'hiden_size' is unknown \(did you mean 'hidden_size'\?\)"),
        ("maskgit", {"hidden_size": 3.5}, r"\[model\] hidden_size must be a whole number, not 3.5"),
        ("maskgit", {"hidden_size": 0}, r"\[model\] hidden_size must be at least 1, not 0"),
        ("maskgit", {"hidden_size": object()}, r"\[model\] hidden_size cannot be an object"),
        ("maskgit", {"hidden_size": 31}, "not divisible by num_attention_heads"),
        ("maskgit", {"batch_size": 3}, "write train__batch_size or val__batch_size or synthesis__batch_size"),
        (
            "maskgit",
            {"train__batch_siz": 3},
            r"\[train\] batch_siz is unknown \(did you mean 'batch_size'\?\)",
        ),
        ("maskgit", {"model": {"hidden": 3}}, r"\[model\] hidden is unknown"),
        ("maskgit", {"run": {"name": "../x"}}, r"\[run\] name '../x' names the run's folder: it must be one"),
        ("maskgit", {"seed": 1.5}, "seed must be a whole number"),
        ("maskgit", {"tokenizer": "logs-none"}, "there is no folder logs-none"),
        ("vqgan", {"target_res": 9, "channel_mult": [1, 2]}, "must be a multiple of 2"),
        ("vqgan", {"dtype": "half"}, "dtype 'half' is unknown"),
        ("hierarchical_vae", {"num_bits": 20}, "num_bits must be at most 16"),
    ],
)
def test_wrong_options_are_one_line(family, options, says):
    with pytest.raises(UserError, match=says) as refused:
        dio.new(family, **options)
    assert "\n" not in str(refused.value)


def test_options_of_a_section_can_be_given_together_and_do_not_mix():
    model = dio.new("maskgit", train={"batch_size": 4}, val__batch_size=2, **NEW["maskgit"], grid=4)
    assert (model.hparams.train.batch_size, model.hparams.val.batch_size) == (4, 2)
    assert model.hparams.synthesis.batch_size == 64


def test_a_tokenizer_for_a_model_that_has_no_use_for_it_is_refused(tokenizer):
    with pytest.raises(UserError, match="takes no tokenizer: leave it out"):
        dio.new("classifier", tokenizer=tokenizer, **SMALL)
    with pytest.raises(UserError, match="grid is 5, but the tokenizer has 4"):
        dio.new("maskgit", tokenizer=tokenizer, grid=5, **NEW["maskgit"])
