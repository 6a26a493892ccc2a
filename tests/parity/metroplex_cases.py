"""Small Metroplex models that together reach every branch of plan and model."""

from dataclasses import fields
from typing import get_args, get_type_hints
from zlib import crc32

import numpy as np

from dioscuri import hparams
from dioscuri.families.metroplex.options import Model
from dioscuri.families.metroplex.plan import make_plan
from dioscuri.families.metroplex.tables import parameter_table
from tests.parity.option_cases import ROOT

BASE = ROOT / "egs" / "metroplex" / "photos32.cfg"
BATCH = 2
SMALL = (
    "data.target_res=8",
    "model.width=8",
    "model.zdim=2",
    "model.num_mixtures=2",
    "model.enc_blocks='4x1,4d2,2x1'",
    "model.dec_blocks='2x1,4m2,4x1'",
)
TRANSFORMER = (
    "model.transformer=True",
    "model.enc_blocks=''",
    "model.dec_blocks=''",
    "model.depth=2",
    "model.base_hidden_res=4",
    "model.head_dim=4",
)
SOUND = (
    "data.dataset_source='wav'",
    "data.sample_rate=8000",
    "data.sample_encoding='mu_law'",
    "data.channels=1",
    "data.target_res=16",
)
SOUND_16_BITS = (
    *SOUND,
    "data.sample_encoding='linear'",
    "data.num_bits=16",
    "loss.min_mol_logscale=-12.5",
    "metrics.report_baselines=False",
)
CLIP = ("data.dataset_source='frames'", "data.frames=4")
CASES = {
    "patches": (),
    "pixels": (
        "model.enc_blocks='8x1,8d4,2x1'",
        "model.dec_blocks='2,8m2'",
        "model.custom_width_str='8:8,2:12'",
        "model.no_bias_above=2",
        "model.final_fn=True",
        "model.shared_sigma='mixtures'",
        "model.gelu='gelu_tanh'",
        "model.attn_res=[2]",
        "model.attn_heads=2",
        "model.zdim=-1",
        "model.input_shift=-120.6",
        "model.input_scale=0.0156",
    ),
    "absolute_errors": (
        "model.block_type='diffusion'",
        "model.likelihood='absolute'",
        "model.num_mixtures=10",
        "model.attn_res=[4]",
        "model.legacy_row_attention=True",
        "metrics.report_baselines=False",
    ),
    "binary": (
        "data.dataset_source='binarized_mnist'",
        "data.channels=1",
        "data.target_res=32",
        "model.color_non_ar=True",
    ),
    "attention": (
        *TRANSFORMER,
        "model.abs_enc='encoder'",
        "model.enc_dec_mode=False",
        "model.shared_sigma='full'",
        "model.norm='layer'",
    ),
    "attention_in_prior_convolutions": (
        *TRANSFORMER,
        "model.enc_mode='cnn'",
        "model.rezero=False",
        "model.abs_enc='start'",
        "model.attn_block_opt=1",
    ),
    "sound": (
        *SOUND,
        "model.enc_blocks='8x1,8d4,2x1'",
        "model.dec_blocks='2x1,8m2'",
        "model.attn_res=[2]",
        "model.num_mixtures=3",
    ),
    "sound_16_bits_attention": (
        *SOUND_16_BITS,
        *TRANSFORMER,
        "model.base_hidden_res=8",
        "model.abs_enc='start'",
        "model.shared_sigma='mixtures'",
    ),
    "clip": (*CLIP, "model.color_non_ar=False"),
    "clip_attention": (
        *CLIP,
        *TRANSFORMER,
        "model.width=12",
        "model.patch_frames=2",
        "model.abs_enc='encoder'",
        "model.enc_mode='cnn'",
    ),
    "dense_posterior": (
        *TRANSFORMER,
        "model.enc_mode='ffn'",
        "model.norm='layer'",
        "data.channels=1",
    ),
}

# Covered elsewhere: by tests of the plan or of the rounding of pictures, which name the option.
HOST_ONLY = {
    "prog_mode": "block strings are made by the plan; the recorded case tf_conv_prog1 has one",
    "zero_weights": "first values are made by the table",
    "random_init_posenc": "first values are made by the table",
    "truncate_pixels": "the recorded samples of the original are cut",
}


def enumerated():
    """(option, value) for every option of the model that is boolean or declares choices."""
    hints = get_type_hints(Model)
    for field in fields(Model):
        values = field.metadata["choices"] or ((False, True) if hints[field.name] is bool else ())
        values = values or get_args(hints[field.name]) * (field.metadata["choices"] is not None)
        yield from ((field.name, value) for value in values if field.name not in HOST_ONLY)


def make(name, *overrides):
    """Options, plan, weights, pictures, noise and masks of a case."""
    chosen = hparams.load(BASE, [*SMALL, *CASES[name], *overrides])
    plan = make_plan(chosen)
    table = parameter_table(chosen, plan)
    weights = {key: rng(key).normal(0, 0.2, entry.shape).astype(np.float32) for key, entry in table.items()}
    shape = (BATCH, *plan.extent, plan.channels)
    highest, dtype = 2**chosen.data.depth - 1, np.uint8 if chosen.data.depth == 8 else np.uint16
    pictures = rng("pictures").integers(0, highest + 1, shape, dtype=dtype)
    pictures[:, ::3], pictures[:, 1::3] = 0, highest
    noise = {}
    for draw in plan.latent_noise(BATCH, prior=True, posterior=True):
        noise[draw.name] = rng(draw.name).standard_normal(draw.shape).astype(np.float32)
    for draw in plan.output_noise(BATCH):
        noise[draw.name] = rng(draw.name).uniform(draw.low, draw.high, draw.shape).astype(np.float32)
    return chosen, plan, weights, pictures, noise, [np.arange(block.variates) % 2 for block in plan.groups]


def rng(name):
    return np.random.default_rng(crc32(name.encode()))
