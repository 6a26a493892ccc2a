"""Small models that together reach every branch of the model, the likelihoods and the samplers."""

from zlib import crc32

import numpy as np

from dioscuri import hparams
from dioscuri.families.hierarchical_vae.initialisation import parameter_table
from dioscuri.families.hierarchical_vae.plan import make_plan
from tests.parity.option_cases import BASE

BATCH = 2
SMALL = (
    "run.num_gpus=0",
    "data.dataset_source='custom'",
    "data.target_res=8",
    "data.num_bits=8.",
    "model.input_conv_filters=6",
    "model.up_strides=[2, 1]",
    "model.up_n_blocks_per_res=[0, 1]",
    "model.up_n_blocks=[1, 1]",
    "model.up_n_layers=[1, 0]",
    "model.up_filters=[8, 8]",
    "model.up_mid_filters_ratio=[0.5, 0.5]",
    "model.up_kernel_size=[3, 3]",
    "model.up_skip_filters=[6, 8]",
    "model.down_strides=[1, 2]",
    "model.down_n_blocks_per_res=[1, 0]",
    "model.down_n_blocks=[1, 2]",
    "model.down_n_layers=[1, 1]",
    "model.down_filters=[8, 6]",
    "model.down_mid_filters_ratio=[0.5, 1.]",
    "model.down_kernel_size=[3, 3]",
    "model.down_latent_variates=[3, 2]",
    "model.num_output_mixtures=3",
    "loss.min_mol_logscale=-7.",
)
GREY = ("data.channels=1",)
LOGSTD = (
    "model.distribution_base='logstd'",
    "model.output_distribution_base='logstd'",
    "model.output_gradient_smoothing_beta=0.9",
)
STRIDE_4 = (
    "model.up_strides=[4, 2]",
    "model.down_strides=[2, 4]",
)

CASES = {
    "rgb": (),
    "grey": (*GREY, "model.use_residual_distribution=True"),
    "two_channels_unscaled_gamma": ("data.channels=2", "loss.scaled_gamma=False"),
    "logstd_residual_exact_bins": (
        *LOGSTD,
        "model.use_residual_distribution=True",
        "data.num_bits=5.",
        "loss.exact_bin_width=True",
    ),
    "logstd_legacy": (*LOGSTD, "loss.legacy_mol_log_scale=True", "loss.legacy_logstd_kl=True"),
    "bernoulli_stride_4": ("data.dataset_source='binarized_mnist'", *GREY, "data.target_res=32", *STRIDE_4),
    "even_kernels_everywhere": (
        *GREY,
        "model.use_1x1_conv=False",
        "model.input_kernel_size=(2, 3)",
        "model.output_kernel_size=4",
        "model.up_kernel_size=[2, 4]",
        "model.down_kernel_size=[4, 2]",
    ),
}


def options(name, *overrides):
    """Options of a case."""
    return hparams.load(BASE, [*SMALL, *CASES[name], *overrides])


def random_weights(plan):
    """Random values of every tensor, so that none can be overlooked; float32."""
    return {name: _rng(name).normal(0, 0.3, parameter.shape).astype(np.float32)
            for name, parameter in parameter_table(plan).items()}  # fmt: skip


def inputs(plan, options, batch=BATCH):
    """uint8 pictures with values at both ends of the range, all noise, and masks."""
    shape = (batch, plan.resolution, plan.resolution, plan.channels)
    pictures = _rng("pictures").integers(0, 256, shape, dtype=np.uint8)
    pictures[:, ::3], pictures[:, 1::3] = 0, 255
    noise = {}
    for draw in plan.latent_noise(batch, prior=True, posterior=True):
        noise[draw.name] = _rng(draw.name).standard_normal(draw.shape).astype(np.float32)
    for draw in plan.output_noise(batch):
        noise[draw.name] = _rng(draw.name).uniform(draw.low, draw.high, draw.shape).astype(np.float32)
    masks = [np.arange(block.variates) % 2 for block in plan.down]
    return pictures, noise, masks


def make(name, *overrides):
    """Options, plan, weights, pictures, noise and masks of a case."""
    chosen = options(name, *overrides)
    plan = make_plan(chosen)
    return chosen, plan, random_weights(plan), *inputs(plan, chosen)


def _rng(name):
    return np.random.default_rng(crc32(name.encode()))
