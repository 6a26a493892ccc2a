"""Layers and parameters of the discriminators.

PatchGAN is that of taming-transformers (and pix2pix), the residual one that of StyleGAN2 as used by MaskGIT,
the staged one that of VQGAN+ (Weber et al. 2024) as used by MaskBit and TiTok.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from math import comb, log2

from dioscuri.errors import UserError
from dioscuri.families.vqgan.options import Discriminator
from dioscuri.families.vqgan.spectral import (
    ContrastPlan,
    contrast_layers,
    contrast_plan,
    contrast_table,
    power_buffers,
)
from dioscuri.plans.parameters import ONES, ZEROS, Init, Parameter, Table

SIDE = 4
"""Side of the residual discriminator's last map."""
STAGE_GROUPS = 32
"""Groups of the staged discriminator's norms."""


@dataclass(frozen=True)
class PatchLayer:
    """A 4x4 convolution with padding 1. All but the last are followed by a leaky ReLU, and all but the
    first and last by a norm before it.

    `index` counts convolutions, norms and activations, as the parameters' names do.
    """

    index: int
    inputs: int
    outputs: int
    stride: int
    bias: bool
    normed: bool


@dataclass(frozen=True)
class DiscriminatorPlan:
    """Has one of `patches`, `contrast`, `stages` and `widths`, which are those of the residual blocks' inputs
    and of the last block's output. Stages are (inputs, outputs); `taps` and `blur_edges` are those of their
    blur."""

    channels: int
    resolution: int
    norm: str
    blur: bool
    patches: tuple[PatchLayer, ...] = ()
    widths: tuple[int, ...] = ()
    contrast: ContrastPlan | None = None
    stages: tuple[tuple[int, int], ...] = ()
    taps: tuple[float, ...] = ()
    blur_edges: tuple[int, int] = (1, 1)


@lru_cache  # host logic and both sides of the engine need the same plan
def make_plan(options: Discriminator, resolution: int, channels: int) -> DiscriminatorPlan | None:
    """Layers for pictures of this size; None without a discriminator. A `UserError` if they are too small."""
    if options.type == "none":
        return None
    if options.type == "dcvae":
        return DiscriminatorPlan(
            channels,
            resolution,
            options.norm,
            options.blur,
            contrast=contrast_plan(
                options.widths,
                options.blocks_per_res,
                (options.gan_resos, options.contra_resos),
                resolution,
                channels,
                biased=not options.legacy_unused_biases,
            ),
        )
    if options.type == "vqgan+":
        return _staged_plan(options, resolution, channels)
    patches = _patch_layers(options, channels) if options.type == "patchgan" else ()
    if patches and _patch_side(patches, resolution) < 1:
        raise UserError(
            f"[discriminator] num_layers {options.num_layers} is too many for pictures with a side of "
            f"{resolution}: lower it"
        )
    widths = () if patches else _widths(options, resolution)
    return DiscriminatorPlan(channels, resolution, options.norm, options.blur, patches, widths)


def parameter_table(plan: DiscriminatorPlan | None, prefix: str = "discriminator.") -> Table:
    """Every parameter under `prefix` and its canonical name; PatchGAN's names are
    those of taming-transformers."""
    if plan is None:
        return {}
    if plan.contrast is not None:
        table = contrast_table(plan.contrast)
    elif plan.stages:
        table = _staged_table(plan)
    else:
        table = _patch_table(plan) if plan.patches else _residual_table(plan)
    return {prefix + name: parameter for name, parameter in table.items()}


def buffer_table(plan: DiscriminatorPlan | None) -> Table:
    """Buffers of spectral normalisation."""
    if plan is None or plan.contrast is None:
        return {}
    return power_buffers("discriminator.", contrast_layers(plan.contrast), values=False)


def _patch_layers(options: Discriminator, channels: int) -> tuple[PatchLayer, ...]:
    n = options.num_layers
    widths = [min(2**level, 8) * options.ndf for level in range(n + 1)]
    plain = options.norm == "none"
    layers = [PatchLayer(0, channels, widths[0], 2, bias=True, normed=False)]
    for level in range(1, n + 1):
        stride = 2 if level < n else 1
        inputs, outputs = widths[level - 1 : level + 1]
        layers.append(PatchLayer(3 * level - 1, inputs, outputs, stride, bias=plain, normed=True))
    return (*layers, PatchLayer(3 * n + 2, widths[n], 1, 1, bias=True, normed=False))


def _patch_side(layers: tuple[PatchLayer, ...], side: int) -> int:
    for layer in layers:
        side = (side - 2) // layer.stride + 1
    return side


def _patch_table(plan: DiscriminatorPlan) -> Table:
    table: Table = {}
    for layer in plan.patches:
        name = f"main.{layer.index}"
        table[f"{name}.weight"] = Parameter((layer.outputs, layer.inputs, 4, 4), Init("normal", 0.02))
        if layer.bias:
            fan_in = layer.inputs * 16
            table[f"{name}.bias"] = Parameter(
                (layer.outputs,), Init("fan_in_uniform", fan_in=fan_in), decays=False
            )
        if layer.normed and plan.norm == "batch":
            norm = f"main.{layer.index + 1}"
            scale = Init("normal", 0.02, mean=1.0)
            table[f"{norm}.weight"] = Parameter((layer.outputs,), scale, decays=False)
            table[f"{norm}.bias"] = Parameter((layer.outputs,), ZEROS, decays=False)
    return table


def _widths(options: Discriminator, resolution: int) -> tuple[int, ...]:
    blocks = log2(resolution / SIDE)
    if blocks < 0 or blocks % 1:
        raise UserError(
            f"[discriminator] type 'stylegan' halves pictures down to {SIDE}x{SIDE}: data.target_res "
            f"{resolution} is not {SIDE} times a power of two; use 'patchgan'"
        )
    sides = [resolution >> level for level in range(int(blocks) + 1)]
    return tuple(_width(side, options.channel_multiplier) for side in sides)


def _width(side: int, multiplier: float) -> int:
    """256 times the multiplier at a side of 64, doubled with every halving, at most 512."""
    return max(1, min(512, int(256 * 64 / side * multiplier)))


def _residual_table(plan: DiscriminatorPlan) -> Table:
    table: Table = {}
    shapes: dict[str, tuple[int, ...]] = {"input": (plan.widths[0], plan.channels, 3, 3)}
    for index, (inputs, outputs) in enumerate(pairwise(plan.widths)):
        shapes[f"blocks.{index}.conv1"] = (inputs, inputs, 3, 3)
        shapes[f"blocks.{index}.conv2"] = (outputs, inputs, 3, 3)
        table[f"blocks.{index}.shortcut.weight"] = Parameter((outputs, inputs, 1, 1), Init("glorot_uniform"))
    last = plan.widths[-1]
    shapes |= {"conv": (last, last, 3, 3), "dense": (last, last * SIDE**2), "output": (1, last)}
    for name, shape in shapes.items():
        table[f"{name}.weight"] = Parameter(shape, Init("glorot_uniform"))
        table[f"{name}.bias"] = Parameter(shape[:1], ZEROS, decays=False)
    return table


def _staged_plan(options: Discriminator, resolution: int, channels: int) -> DiscriminatorPlan:
    if options.ndf % STAGE_GROUPS:
        raise UserError(
            f"[discriminator] ndf {options.ndf} must be a multiple of {STAGE_GROUPS} for type 'vqgan+'"
        )
    if resolution % 2**options.num_layers:
        raise UserError(
            f"[discriminator] num_layers {options.num_layers} halve pictures as often: data.target_res "
            f"{resolution} must be a multiple of {2**options.num_layers}"
        )
    widths = [options.ndf * 2 ** max(0, stage - 1) for stage in range(options.num_layers + 1)]
    taps = [comb(options.blur_taps - 1, i) for i in range(options.blur_taps)]
    padding = (4 if options.legacy_blur_padding else options.blur_taps) - 2
    return DiscriminatorPlan(
        channels,
        resolution,
        options.norm,
        options.blur,
        stages=tuple(pairwise(widths)),
        taps=tuple(tap / sum(taps) for tap in taps),
        blur_edges=(padding // 2, padding - padding // 2),
    )


def _staged_table(plan: DiscriminatorPlan) -> Table:
    first, last = plan.stages[0][0], plan.stages[-1][1]
    layers = {"block_in.0": (first, plan.channels, 5)}
    layers |= {f"blocks.{i}.0": (outputs, inputs, 3) for i, (inputs, outputs) in enumerate(plan.stages)}
    layers |= {"to_logits.0": (last, last, 1), "to_logits.2": (1, last, 5)}
    table: Table = {}
    for name, (outputs, inputs, side) in layers.items():
        bias = Init("fan_in_uniform", fan_in=inputs * side**2)
        table[f"{name}.weight"] = Parameter((outputs, inputs, side, side), Init("fan_in_uniform"))
        table[f"{name}.bias"] = Parameter((outputs,), bias, decays=False)
    for i, (_, width) in enumerate(plan.stages):
        table[f"blocks.{i}.2.weight"] = Parameter((width,), ONES, decays=False)
        table[f"blocks.{i}.2.bias"] = Parameter((width,), ZEROS, decays=False)
    return table
