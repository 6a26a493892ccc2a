"""Plans of masked token transformers: vocabulary, sizes, initial values, published sizes, mistakes."""

from math import prod
from pathlib import Path

import numpy as np
import pytest

from dioscuri.errors import UserError
from dioscuri.families.maskgit.model_options import ARCHITECTURES, BIT_GROUPS, WITH_DROPOUT, Transformer
from dioscuri.families.maskgit.transformers import (
    critic_plan,
    dropout_noise,
    initial_parameters,
    make_plan,
    parameter_table,
)
from dioscuri.hparams import load
from dioscuri.importers.google import google_name
from dioscuri.importers.halton import from_halton, halton_options
from dioscuri.importers.lucidrains import from_lucidrains, lucidrains_options
from dioscuri.importers.open_muse import open_muse_options
from dioscuri.importers.published import recognise
from dioscuri.plans.parameters import shapes

ROOT = Path(__file__).parents[2]
TINY = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
UVIT = {
    "in_channels": 4,
    "block_out_channels": (4,),
    "block_num_heads": 2,
    "cond_embed_dim": 3,
    "micro_cond_encode_dim": 2,
}
MEISSONIC = {
    "architecture": "meissonic",
    "axes_dims_rope": (2, 2, 2),
    "hidden_size": 12,
    "cond_embed_dim": 12,
}
WITH_CRITIC = [name for name in ARCHITECTURES if name not in ("meissonic", *BIT_GROUPS)]
"""Architectures with critics."""


def plan(grid=4, codes=10, **options):
    codes = 16 if codes == 10 and options.get("architecture") in BIT_GROUPS else codes
    return make_plan(Transformer(**{**TINY, **options}), grid, codes)


def size(options, grid, codes):
    table = shapes(parameter_table(make_plan(options, grid, codes)))
    return sum(map(prod, table.values()))


def halton(width, depth, heads):
    config = {"hidden_dim": width, "depth": depth, "heads": heads, "mlp_dim": 4 * width, "dropout": 0.1}
    return halton_options({**config, "nclass": 1000, "register": 1, "proj": 1})


@pytest.mark.parametrize(
    ("options", "grid", "codes", "millions"),
    [
        (open_muse_options({"_class_name": "MaskGiTUViT"}), 16, 8192, 603),
        (open_muse_options({"_class_name": "MaskGiTUViT", "force_down_up_sample": True}), 32, 8192, 608),
        (halton(384, 6, 6), 16, 16384, 23),
        (halton(512, 12, 6), 16, 16384, 69),
        (halton(768, 12, 12), 16, 16384, 142),
        (halton(1024, 24, 16), 16, 16384, 480),
    ],
    ids=["amused-256", "amused-512", "halton-tiny", "halton-small", "halton-base", "halton-large"],
)
def test_published_networks_have_their_published_sizes(options, grid, codes, millions):
    assert abs(size(options, grid, codes) / 1e6 - millions) < 0.7


def test_mask_is_the_last_of_the_vocabulary():
    assert plan(num_classes=3).mask_id == 13
    assert plan(num_classes=3, vocab_size=32).mask_id == 31
    assert plan(architecture="halton", num_classes=3).mask_id == 10
    assert plan(architecture="lucidrains").mask_id == 10
    assert plan(architecture="google", num_classes=3).outputs == 14
    assert plan(use_codebook_size_for_output=True, num_classes=3).outputs == 10


def test_a_critic_of_lucidrains_knows_no_mask():
    whole = plan(architecture="lucidrains", critic="token", self_cond=True)
    critic = critic_plan(whole)
    assert (critic.outputs, critic.vocab_size, whole.vocab_size) == (1, 10, 11)
    names = {name for name in parameter_table(whole) if name.startswith("critic.")}
    assert not any("self_cond" in name for name in names)
    assert len(names) == len(parameter_table(critic))


def test_the_uvit_begins_with_the_embedding_as_its_output():
    made = plan(architecture="uvit", **UVIT)
    values = initial_parameters(made, 0)
    last = values["mlm_layer.conv2.weight"]
    np.testing.assert_array_equal(last[:, :, 0, 0], values["embed.embeddings.weight"][:10])
    assert not values["mlm_layer.conv1.weight"].any()


@pytest.mark.parametrize(
    "options",
    [
        *({**UVIT, "architecture": name, "critic": "self"} for name in WITH_CRITIC),
        *({"architecture": name} for name in BIT_GROUPS),
        MEISSONIC,
    ],
)
def test_first_values_have_the_table_s_shapes_and_depend_on_the_seed(options):
    made = plan(**options)
    first, again, other = (initial_parameters(made, seed) for seed in (0, 0, 1))
    assert {name: array.shape for name, array in first.items()} == shapes(parameter_table(made))
    for name, array in first.items():
        np.testing.assert_array_equal(array, again[name])
    assert any((array != other[name]).any() for name, array in first.items())


def test_only_matrices_and_kernels_decay():
    named = [{**UVIT, "architecture": name} for name in (*WITH_CRITIC, *BIT_GROUPS)]
    for options in [*named, MEISSONIC]:
        for name, parameter in parameter_table(plan(**options)).items():
            assert parameter.decays <= (len(parameter.shape) > 1), name
            assert not (parameter.decays and ("emb" in name and "embed." not in name)) or any(
                word in name for word in ("proj", "embedder")
            ), name


@pytest.mark.parametrize("architecture", WITH_DROPOUT)
def test_dropout_needs_noise_only_where_it_has_a_rate(architecture):
    def names(**rates):
        made = plan(architecture=architecture, **UVIT, **rates)
        return [draw.name for draw in dropout_noise(made, 2, 5)]

    assert not names()
    attention, hidden = names(attention_dropout=0.1), names(hidden_dropout=0.1)
    assert all(name.endswith("attention") for name in attention)
    assert attention
    assert hidden
    assert not set(attention) & set(hidden)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"hidden_size": 9}, "divisible by num_attention_heads"),
        ({"num_classes": 3, "vocab_size": 12}, "need 14"),
        ({"architecture": "halton", "vocab_size": 12}, "must be 11"),
        ({"max_position_embeddings": 15}, "has 16 tokens"),
        ({"use_conv_in_out": True, "embedding_size": 4, "patch_size": 3}, "divisible by 3"),
        ({"use_conv_in_out": True}, "needs embedding_size"),
        ({"use_conv_in_out": True, "embedding_size": 4, "num_classes": 2}, "class token"),
        ({"patch_size": 2}, "use_conv_in_out=True"),
        ({"architecture": "uvit", "num_classes": 2}, "num_classes=0"),
        ({"architecture": "uvit", "block_out_channels": (4, 4)}, "one number"),
        ({"architecture": "uvit", "block_out_channels": (5,), "block_num_heads": 2}, "block_num_heads"),
        ({"architecture": "google", "add_cross_attention": True}, "add_cross_attention"),
        ({"architecture": "halton", "proj": 3}, "divisible by 3"),
        ({"hidden_dropout": 1.0}, "below 1"),
        ({**MEISSONIC, "num_classes": 2}, "num_classes=0"),
        ({**MEISSONIC, "axes_dims_rope": (2, 2, 4)}, r"add up to a head's width, .* 6"),
        ({**MEISSONIC, "axes_dims_rope": (1, 2, 3)}, "even numbers"),
        ({**MEISSONIC, "cond_embed_dim": 8}, "must equal hidden_size 12"),
        ({**MEISSONIC, "hidden_dropout": 0.1}, "hidden_dropout is not for architecture 'meissonic'"),
        ({**MEISSONIC, "critic": "token"}, "critic is not for"),
    ],
)
def test_mistakes_are_named(options, words):
    with pytest.raises(UserError, match=words):
        plan(**options)


def test_odd_grids_cannot_be_halved():
    for options in ({**UVIT, "architecture": "uvit"}, MEISSONIC):
        with pytest.raises(UserError, match="force_down_up_sample needs a grid side divisible by 2"):
            plan(grid=5, **options, force_down_up_sample=True)


def test_a_grid_need_not_be_square_with_rotary_positions():
    made = make_plan(Transformer(**{**TINY, **MEISSONIC}), 4, 10, columns=6)
    assert (made.n_tokens, made.length) == (24, 24)
    with pytest.raises(UserError, match="needs a square grid, not 4x6"):
        make_plan(Transformer(**TINY), 4, 10, columns=6)


def test_configurations_of_open_muse():
    config = {"vocab_size": 2048, "codebook_size": 1024, "num_classes": 1000, "norm_type": "rmsnorm"}
    options = open_muse_options({**config, "layer_norm_eps": 1e-6, "embedding_size": None})
    assert options.legacy_mlp_layernorm
    assert (options.hidden_dropout, options.intermediate_size, options.embedding_size) == (0.1, 3072, 0)
    assert not open_muse_options({}).legacy_mlp_layernorm
    assert open_muse_options({"block_out_channels": [768], "block_num_heads": [12]}).block_num_heads == 12
    with pytest.raises(UserError, match="did you mean 'hidden_size'"):
        open_muse_options({"hiden_size": 3})


def test_names_of_google_s_parameters_are_ours():
    made = parameter_table(plan(architecture="google", num_classes=2))
    flax = {
        "Embed_0/word_embeddings/embedding",
        "Embed_0/position_embeddings/embedding",
        *(f"Embed_0/embeddings_ln/{leaf}" for leaf in ("scale", "bias")),
        *(f"MlmLayer_0/mlm_dense/{leaf}" for leaf in ("kernel", "bias")),
        *(f"MlmLayer_0/mlm_ln/{leaf}" for leaf in ("scale", "bias")),
        "MlmLayer_0/mlm_bias/bias",
        *(
            f"TransformerLayer_0/Attention_0/self_attention/{part}/{leaf}"
            for part in ("query", "key", "value", "out")
            for leaf in ("kernel", "bias")
        ),
        *(f"TransformerLayer_0/Attention_0/attention_output_ln/{leaf}" for leaf in ("scale", "bias")),
        *(
            f"TransformerLayer_0/Mlp_0/{part}/{leaf}"
            for part in ("intermediate_output", "layer_output")
            for leaf in ("kernel", "bias")
        ),
        *(f"TransformerLayer_0/Mlp_0/layer_output_ln/{leaf}" for leaf in ("scale", "bias")),
    }
    assert {google_name(name) for name in flax} == set(made)


def test_weights_that_are_not_the_projects_are_refused():
    tied = {"tok_emb.weight": np.ones((3, 2)), "head.weight": np.ones((3, 2))}
    assert set(from_halton(tied)) == {"tok_emb.weight"}
    with pytest.raises(UserError, match="differs from tok_emb"):
        from_halton({**tied, "head.weight": np.zeros((3, 2))})
    with pytest.raises(UserError, match="beta"):
        from_lucidrains({"transformer.norm.beta": np.ones(2)})


def test_lucidrains_options_have_its_defaults():
    options = lucidrains_options({"dim": 24, "depth": 2}, 14)
    assert (options.head_dim, options.num_attention_heads, options.intermediate_size) == (64, 8, 96)
    assert make_plan(options, 4, 20).inner == 64


@pytest.mark.parametrize(
    ("name", "millions", "tokens"),
    [("muse256", 603, 256), ("muse512", 608, 1024), ("amused256", 603, 256), ("amused512", 608, 1024)],
)
def test_published_text_models_have_their_published_size(name, millions, tokens):
    hparams = load(ROOT / "egs" / "maskgit" / f"{name}.cfg")
    plan = make_plan(hparams.model, hparams.data.grid, hparams.data.codebook_size)
    size = sum(prod(parameter.shape) for parameter in parameter_table(plan).values())
    assert (size // 10**6, plan.n_tokens) == (millions, tokens)
    assert plan.conditions == ("text", "pooled", "micro")


@pytest.mark.parametrize(("ours", "config"), [("muse256", {}), ("muse512", {"force_down_up_sample": True})])
def test_published_text_models_are_what_their_configurations_describe(ours, config):
    described = recognise(
        {"_class_name": "MaskGiTUViT_v2", "num_vq_tokens": 256 * 4 ** len(config), **config}, "x"
    )
    cfg = ROOT / "egs" / "maskgit" / f"{ours}.cfg"
    chosen, published = load(cfg), load(cfg, described.overrides)
    plans = [make_plan(h.model, h.data.grid, h.data.codebook_size) for h in (chosen, published)]
    assert [parameter_table(plan) for plan in plans] == [parameter_table(plans[0])] * 2
    assert (plans[0].eps, plans[0].n_tokens, plans[0].mask_id) == (
        plans[1].eps,
        plans[1].n_tokens,
        plans[1].mask_id,
    )
    assert chosen.model.legacy_mlp_layernorm == published.model.legacy_mlp_layernorm
