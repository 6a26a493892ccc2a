"""The twins' tokenizers agree in float64, in every architecture and quantiser; options do what they say."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch

from dioscuri.errors import UserError
from dioscuri.families.vqgan.model_options import Tokenizer
from dioscuri.families.vqgan.plan import make_plan, noise
from dioscuri.families.vqgan.tables import buffer_table, parameter_table
from dioscuri.families.vqgan.training import gumbel_temperature
from dioscuri.plans.parameters import initial_values
from tests.support.tokenizers import TWINS, Torch

PLAIN = Tokenizer(
    architecture="maskgit", hidden_channels=8, channel_mult=(1, 2), num_res_blocks=1, z_channels=3,
    embedding_dim=3, num_embeddings=8, norm_groups=4,
)  # fmt: skip
TAMING = replace(PLAIN, architecture="taming", z_channels=5, attn_resolutions=(4,))
METROPLEX = Tokenizer(
    architecture="metroplex", hidden_channels=4, enc_blocks="8x1,8d2,4x1,4d2", dec_blocks="2d2,4d2,8",
    custom_width_str="4:8,2:6", z_channels=6, embedding_dim=6, num_embeddings=8, quantizer="ema",
    ema_debiased=True,
)  # fmt: skip
TITOK = Tokenizer(
    architecture="titok", latent_tokens=3, encoder_patch=4, encoder_width=8, encoder_layers=1,
    encoder_heads=2, decoder_patch=2, decoder_width=12, decoder_layers=1, decoder_heads=3, embedding_dim=3,
    num_embeddings=8,
)  # fmt: skip
OPTIONS = {
    "maskgit": PLAIN,
    "vqgan_plus": replace(PLAIN, architecture="vqgan_plus", num_res_blocks_decoder=2),
    "vqgan_plus with pooling": replace(PLAIN, architecture="vqgan_plus", resample_with_conv=False),
    "legacy": replace(PLAIN, legacy_shortcut=True, legacy_commitment=True),
    "taming": TAMING,
    "taming without convolutions": replace(TAMING, resample_with_conv=False, mid_attention=False),
    "taming legacy": replace(TAMING, legacy_single_block_attention=True),
    "movq": replace(TAMING, architecture="movq"),
    "paella": replace(PLAIN, architecture="paella", num_res_blocks=2),
    "metroplex": METROPLEX,
    "metroplex of two convolutions": replace(METROPLEX, block_type="diffusion", ema_debiased=False),
    "dcvae": replace(PLAIN, architecture="dcvae", channel_mult=(2, 1), z_channels=8, embedding_dim=8),
    "titok": replace(TITOK, clustered=True),
    "titok in its second stage": replace(
        TITOK,
        decoder_output="proxy_pixels",
        hidden_channels=8,
        channel_mult=(1, 2, 2),
        z_channels=3,
        norm_groups=4,
        num_proxy_embeddings=8,
        decoder_patch=4,
        legacy_shortcut=True,
        legacy_latent_reshape=True,
    ),
    "dropout": replace(PLAIN, dropout=0.3),
    "entropy": replace(PLAIN, entropy_loss_ratio=0.1, entropy_temperature=0.5),
    "entropy of the choice": replace(PLAIN, entropy_loss_ratio=0.1, entropy_type="argmax"),
    "clamped entropy": replace(
        PLAIN, entropy_loss_ratio=0.1, entropy_type="clamped", entropy_gamma=0.5, entropy_temperature=0.5
    ),
    "unit vectors": replace(PLAIN, l2_normalised=True),
    "ema": replace(PLAIN, quantizer="ema"),
    "gumbel": replace(TAMING, quantizer="gumbel", mid_attention=False, attn_resolutions=()),
    "gumbel by distances": replace(
        PLAIN, quantizer="gumbel", gumbel_straight_through=True, entropy_loss_ratio=0.1
    ),
    "fsq": replace(PLAIN, quantizer="fsq", fsq_levels=(4, 3, 2), num_embeddings=24),
    "lfq": replace(PLAIN, quantizer="lfq", entropy_loss_ratio=0.1, entropy_temperature=1.0),
}
SIDE, ROWS = 8, 2


def made(twin, options, dtype=np.float64, **more):
    plan = make_plan(options, SIDE, 1)
    return TWINS[twin](plan, weights(plan), dtype, **more)


def weights(plan):
    """Codes far apart, so that no argmin is close, and blocks that are not the identity."""
    table = parameter_table(plan)
    values = {name: array.astype(np.float64) for name, array in initial_values(table, 1).items()}
    values |= {name: values[name] * 8 for name in values if name.startswith("quantize")}
    gammas = np.random.default_rng(3).normal(0, 0.5, 6)
    values |= {name: gammas for name in values if name.endswith("gammas")}
    return values


def inputs(plan):
    generator = np.random.default_rng(0)
    drawn = {draw.name: generator.random(draw.shape) for draw in noise(plan, ROWS)}
    return generator.random((ROWS, SIDE, SIDE, 1)), drawn, initial_values(buffer_table(plan), 2)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_twins_agree(options):
    actual = {}
    for twin in TWINS:
        tokenizer = made(twin, options)
        x, drawn, buffers = inputs(tokenizer.plan)
        values, grads = tokenizer.train(x, drawn, buffers)
        stages = tokenizer.forward(x)
        pictures = tokenizer.decode_indices(stages["indices"])
        np.testing.assert_allclose(pictures, stages["decoded"], rtol=1e-9, atol=1e-12)
        actual[twin] = stages | {f"train.{name}": value for name, value in values.items()} | grads
    assert actual["torch"].keys() == actual["jax"].keys()
    for name, expected in actual["torch"].items():
        limit = 1e-9 * max(np.abs(expected).max(), 1e-3)
        np.testing.assert_allclose(actual["jax"][name], expected, rtol=0, atol=limit, err_msg=name)


@pytest.mark.parametrize(
    ("twin", "kind"), [*product(TWINS, ["taming", "paella"]), ("torch", "metroplex"), ("torch", "titok")]
)
def test_recomputing_blocks_changes_nothing(twin, kind):
    options = OPTIONS[kind]
    plan = make_plan(options, SIDE, 1)
    x, drawn, buffers = inputs(plan)
    plain = made(twin, options).train(x, drawn, buffers)
    recomputed = made(twin, options, checkpoint=True).train(x, drawn, buffers)
    for one, other in zip(plain, recomputed, strict=True):
        for name, expected in one.items():
            np.testing.assert_allclose(other[name], expected, rtol=1e-9, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("kind", ["fsq", "lfq"])
def test_every_index_has_a_code_of_its_own(kind):
    options = OPTIONS[kind]
    tokenizer = made("torch", options)
    K = options.num_embeddings
    model = tokenizer._model()
    indices = torch.arange(K).reshape(K, 1, 1)
    codes = model.quantize.lookup(indices)
    assert len(np.unique(codes.numpy().reshape(K, -1), axis=0)) == K
    assert codes.abs().max() <= 1
    z = torch.randn(200, 3, 3, options.embedding_dim, generator=torch.Generator().manual_seed(0))
    actual = model.quantize(4 * z)
    assert len(actual.indices.unique()) == K
    np.testing.assert_array_equal(actual.codes, model.quantize.lookup(actual.indices))


def test_moving_averages_are_means_of_what_was_quantised():
    options = replace(OPTIONS["ema"], ema_decay=0.0)
    tokenizer = made("torch", options)
    x, drawn, buffers = inputs(tokenizer.plan)
    stages, (values, _) = tokenizer.forward(x), tokenizer.train(x, drawn, buffers)
    for code in range(options.num_embeddings):
        chosen = stages["z"][stages["indices"] == code]
        assert values["new.cluster_size"][code] == len(chosen)
        np.testing.assert_allclose(values["new.embedding_sum"][code], chosen.sum(0), atol=1e-12)


def test_commitment_weighs_the_encoder_unless_legacy():
    grads = {}
    for legacy in (False, True):
        for cost in (0.0, 1.0):
            options = replace(PLAIN, legacy_commitment=legacy, commitment_cost=cost)
            tokenizer = Torch(make_plan(options, SIDE, 1), weights(make_plan(options, SIDE, 1)), np.float64)
            x, drawn, buffers = inputs(tokenizer.plan)
            grads[legacy, cost] = tokenizer.train(x, drawn, buffers)[1]["quantize.embedding.weight"]
    assert np.abs(grads[False, 0.0] - grads[False, 1.0]).max() == 0
    assert np.abs(grads[True, 0.0]).max() == 0
    assert np.abs(grads[True, 1.0]).max() > 0


def test_gumbel_mixes_codes_by_noisy_logits():
    """Compared with the definition in numpy; at a low temperature the mixture is the noisy choice."""
    options = replace(TAMING, quantizer="gumbel", gumbel_kl_weight=2.0)
    tokenizer = made("torch", options)
    x, drawn, _ = inputs(tokenizer.plan)
    values, _ = tokenizer.train(x, drawn)
    model = tokenizer._model()
    with torch.no_grad():
        logits = model.quantize.logits(model.encode(torch.from_numpy(x))).numpy()
        noise = {"gumbel": torch.from_numpy(drawn["gumbel"])}
        cold = model.quantize(model.encode(torch.from_numpy(x)), noise, 1e-4, train=True)
    noisy = logits - np.log(-np.log(drawn["gumbel"]))
    mixture = np.exp(noisy) / np.exp(noisy).sum(-1, keepdims=True)
    codebook = tokenizer.weights["quantize.embed.weight"]
    np.testing.assert_allclose(values["codes"], mixture @ codebook, rtol=0, atol=1e-9)
    np.testing.assert_allclose(cold.codes, codebook[noisy.argmax(-1)], rtol=0, atol=1e-9)
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    divergence = (p * np.log(p * options.num_embeddings)).sum(-1).mean()
    np.testing.assert_allclose(values["loss.quantiser"], 2 * divergence, rtol=1e-6)
    actual = tokenizer.forward(x)["indices"]
    np.testing.assert_array_equal(actual, logits.argmax(-1))


def test_the_temperature_falls_linearly():
    options = replace(PLAIN, gumbel_temperature=(2.0, 1.0), gumbel_temperature_steps=10)
    assert [gumbel_temperature(step, options) for step in (0, 5, 10, 50)] == [2.0, 1.5, 1.0, 1.0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"embedding_dim": 4}, r"embedding_dim 4 must be z_channels 3"),
        ({"norm_groups": 3}, r"multiples of norm_groups = 3"),
        ({"channel_mult": ()}, r"channel_mult is empty"),
        ({"channel_mult": (1,) * 5}, r"target_res 8 must be a multiple of 16"),
        ({"quantizer": "fsq", "fsq_levels": (2, 2, 3)}, r"product is num_embeddings = 8"),
        ({"quantizer": "lfq", "num_embeddings": 9}, r"2\^embedding_dim = 8"),
        ({"architecture": "dcvae", "dropout": 0.5}, "'dcvae' has no dropout"),
        ({"architecture": "dcvae"}, "z_channels 3 must be 16"),
        ({"architecture": "paella", "dropout": 0.5}, "'paella' has no dropout"),
        ({"architecture": "paella", "channel_mult": (1,) * 4}, "must be a multiple of 16"),
        ({"ema_decay": 1.0}, r"ema_decay must be below 1"),
    ],
)
def test_mistakes_are_reported(changes, message):
    with pytest.raises(UserError, match=message):
        make_plan(replace(PLAIN, **changes), SIDE, 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"enc_blocks": "4x1,4d2"}, "enc_blocks '4x1,4d2' begins at resolution 4, data.target_res is 8"),
        ({"enc_blocks": "8d2,2x1"}, "'2x1' begins at resolution 2, but the blocks before it end at 4"),
        ({"dec_blocks": "4d2"}, "begins at resolution 4, the end of enc_blocks is 2"),
        ({"dec_blocks": "2d2,8"}, "'8' begins at resolution 8, but the blocks before it end at 4"),
        ({"dec_blocks": "2d2"}, "ends at resolution 4, data.target_res is 8"),
        ({"dec_blocks": ""}, "needs enc_blocks and dec_blocks"),
        ({"channel_mult": (1, 2)}, "leave channel_mult out"),
        ({"custom_width_str": "8:5,2:6"}, "the width 5, but hidden_channels is 4"),
        ({"custom_width_str": "2:8"}, "z_channels 6 must be 8"),
        ({"bottleneck_multiple": 0.1}, "bottleneck_multiple 0.1 leaves no channel of 4"),
        ({"dropout": 0.1}, "'metroplex' has no dropout"),
    ],
)
def test_mistakes_of_block_strings_are_reported(changes, message):
    with pytest.raises(UserError, match=message):
        make_plan(replace(METROPLEX, **changes), SIDE, 1)
