"""Parameters of the hierarchical VAE: canonical names, shapes, initial values, and which of them decay.

Shapes are canonical: kernels OIHW, image-shaped parameters (1, C, H, W). Every tensor has a separate
generator, so both twins start from the same numbers, and changing one layer does not change the others'
initial values.
"""

from dataclasses import dataclass
from math import prod, sqrt
from typing import Literal
from zlib import crc32

import numpy as np

from dioscuri.families.hierarchical_vae.options import HParams
from dioscuri.families.hierarchical_vae.plan import Cell, DownBlock, HierarchicalVAEPlan, UpBlock

Rule = Literal["zeros", "glorot", "residual", "latent", "prior"]
"""How a tensor is initialised. All but `zeros` are Glorot uniform. `residual` (last convolution of a residual
cell, if `stable_init`) and `latent` (projections of latents and classes) are scaled by
sqrt(1 / latent groups); `prior` (last convolution of a prior net) is zero if
`initialize_prior_weights_as_zero`."""

DECAYED_LAYERS = {"cells", "prior_net", "posterior_net", "pool", "unpool"}


@dataclass(frozen=True)
class Parameter:
    """Canonical shape and rule of one tensor."""

    shape: tuple[int, ...]
    rule: Rule


Table = dict[str, Parameter]


def parameter_table(plan: HierarchicalVAEPlan) -> Table:
    """Every parameter under its canonical name, layers in order of execution."""
    table = _conv("bottom_up.input_conv", plan.channels, plan.input_channels, plan.input_kernel)
    for n, up in enumerate(plan.up):
        table |= _up_block(f"bottom_up.blocks.{n}", up)
    side = plan.top_resolution
    table["top_down.trainable_h"] = Parameter((1, plan.top_channels, side, side), "zeros")
    if plan.num_classes:
        table["top_down.class_emb.weight"] = Parameter((plan.num_classes + 1, plan.class_width), "glorot")
    for n, down in enumerate(plan.down):
        name = f"top_down.blocks.{n}"
        table |= _down_block(name, down)
        if plan.num_classes:
            shape = (down.channels, plan.class_width)
            table[f"{name}.class_projection.weight"] = Parameter(shape, "latent")
    return table | _conv(
        "top_down.output_conv", plan.down[-1].channels, plan.output_channels, plan.output_kernel
    )


def initial_parameters(hparams: HParams, plan: HierarchicalVAEPlan, seed: int) -> dict[str, np.ndarray]:
    """Initial values, float32, which depend only on options and seed (Glorot
    and Bengio 2010, equation 16)."""
    scales = {
        "zeros": 0.0,
        "glorot": 1.0,
        "residual": plan.residual_scale if hparams.model.stable_init else 1.0,
        "latent": plan.residual_scale,
        "prior": 0.0 if hparams.model.initialize_prior_weights_as_zero else 1.0,
    }
    return {
        name: _glorot_uniform(name, parameter.shape, seed, scales[parameter.rule])
        for name, parameter in parameter_table(plan).items()
    }


def decayed(name: str) -> bool:
    """Whether a parameter decays: a kernel of a cell, a prior or posterior net, a pool or an unpool."""
    *layers, leaf = name.split(".")
    return leaf == "weight" and not DECAYED_LAYERS.isdisjoint(layers)


def _glorot_uniform(name: str, shape: tuple[int, ...], seed: int, scale: float) -> np.ndarray:
    if scale == 0:
        return np.zeros(shape, np.float32)
    outputs, inputs, *kernel = shape
    limit = scale * sqrt(6 / ((inputs + outputs) * prod(kernel)))
    generator = np.random.default_rng((seed, crc32(name.encode())))
    return generator.uniform(-limit, limit, shape).astype(np.float32)


def _up_block(name: str, block: UpBlock) -> Table:
    table = _cells(name, block.cells)
    if block.skip_channels:
        table |= _conv(f"{name}.skip_projection", block.channels, block.skip_channels)
    if block.pool_stride > 1:
        kernel = (block.pool_stride, block.pool_stride)
        table |= _conv(f"{name}.pool", block.channels, block.pool_channels, kernel)
    return table


def _down_block(name: str, block: DownBlock) -> Table:
    table: Table = {}
    width, side = block.channels, block.resolution
    if block.unpool_stride > 1:
        table |= _conv(f"{name}.unpool.conv", block.in_channels, width)
        table[f"{name}.unpool.scale_bias"] = Parameter((1, width, side, side), "zeros")
    table |= _cell(f"{name}.prior_net", block.prior_net, "prior")
    table |= _cell(f"{name}.posterior_net", block.posterior_net, "glorot")
    for layer in ("prior_layer", "posterior_layer"):
        table |= _conv(f"{name}.{layer}", width, 2 * block.variates)
    table |= _conv(f"{name}.z_projection", block.variates, width, rule="latent")
    return table | _cells(name, block.cells)


def _cells(name: str, cells: tuple[Cell, ...]) -> Table:
    table: Table = {}
    for b, cell in enumerate(cells):
        table |= _cell(f"{name}.cells.{b}", cell, "residual")
    return table


def _cell(name: str, cell: Cell, last: Rule) -> Table:
    table: Table = {}
    for k, (inputs, outputs, kernel) in enumerate(cell.convolutions):
        rule = last if k == len(cell.convolutions) - 1 else "glorot"
        table |= _conv(f"{name}.convs.{k}", inputs, outputs, kernel, rule=rule)
    return table


def _conv(
    name: str, inputs: int, outputs: int, kernel: tuple[int, ...] = (1, 1), *, rule: Rule = "glorot"
) -> Table:
    return {
        f"{name}.weight": Parameter((outputs, inputs, *kernel), rule),
        f"{name}.bias": Parameter((outputs,), "zeros"),
    }
