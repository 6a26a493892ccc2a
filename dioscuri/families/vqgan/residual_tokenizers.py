"""Layers of the VQ-VAE in Metroplex's later program: VD-VAE's blocks around a grid of codes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt

from dioscuri.errors import UserError
from dioscuri.families.hierarchical_vae.plan import Cell
from dioscuri.families.metroplex.block_strings import EncoderStep, encoder_blocks, enlarging_blocks, widths
from dioscuri.families.vqgan.model_options import Tokenizer
from dioscuri.plans.parameters import ZEROS, Init, Parameter, Table


@dataclass(frozen=True)
class ResidualBlock:
    """A cell, after which the resolution changes by `factor` and the channels change to `out_channels`."""

    resolution: int
    cell: Cell
    factor: int
    out_channels: int


@dataclass(frozen=True)
class ResidualStacks:
    """Blocks in order of execution, and the width of the grid of codes."""

    encoder: tuple[ResidualBlock, ...]
    decoder: tuple[ResidualBlock, ...]
    grid: int
    width: int


def residual_stacks(options: Tokenizer, resolution: int) -> ResidualStacks:
    """Blocks of `enc_blocks` and `dec_blocks`; a `UserError` names the option that does not fit."""
    width = widths(options.custom_width_str, options.hidden_channels)
    down, up = encoder_blocks(options.enc_blocks), enlarging_blocks(options.dec_blocks)
    grid = down[-1].out_resolution
    ends = (
        ("enc_blocks", "begins", down[0].resolution, resolution, "data.target_res"),
        ("dec_blocks", "begins", up[0].resolution, grid, "the end of enc_blocks"),
        ("dec_blocks", "ends", up[-1].resolution * up[-1].pool, resolution, "data.target_res"),
    )
    for option, verb, actual, expected, what in ends:
        if actual != expected:
            raise UserError(
                f"[model] {option} '{getattr(options, option)}' {verb} at resolution {actual}, {what} is "
                f"{expected}"
            )
    if width(resolution) != options.hidden_channels:
        raise UserError(
            f"[model] custom_width_str gives resolution {resolution} the width {width(resolution)}, but "
            f"hidden_channels is {options.hidden_channels}: they must be equal"
        )
    if width(grid) != options.z_channels:
        raise UserError(
            f"[model] z_channels {options.z_channels} must be {width(grid)}, the width of resolution {grid}"
        )
    encoder = _blocks(options, down, width, [step.out_resolution for step in down])
    decoder = _blocks(options, up, width, [step.resolution * step.pool for step in up])
    return ResidualStacks(encoder, decoder, grid, width(grid))


def residual_table(stacks: ResidualStacks, channels: int, codebook: Table) -> Table:
    """Every parameter under its canonical name. Kernels are initially uniform with variance 1 / inputs,
    divided by the number of blocks at the end of a block; biases are zero."""
    width = stacks.encoder[0].cell.in_channels
    table = _convolution("encoder.conv_in", channels, width, (3, 3))
    table |= _stack("encoder", stacks.encoder) | codebook
    table |= _convolution("decoder.conv_in", stacks.width, stacks.width, (3, 3))
    table |= _stack("decoder", stacks.decoder)
    return table | _convolution("decoder.conv_out", stacks.decoder[-1].out_channels, channels, (1, 1))


def _blocks(
    options: Tokenizer, steps: Sequence[EncoderStep], width: Callable[[int], int], reached: Sequence[int]
) -> tuple[ResidualBlock, ...]:
    return tuple(
        ResidualBlock(
            step.resolution, _cell(options, step.resolution, width(step.resolution)), step.pool, width(after)
        )
        for step, after in zip(steps, reached, strict=True)
    )


def _cell(options: Tokenizer, resolution: int, width: int) -> Cell:
    side, bottleneck = 3 if resolution > 2 else 1, options.block_type == "bottleneck"
    mid = int(width * options.bottleneck_multiple) if bottleneck else width
    if mid < 1:
        raise UserError(
            f"[model] bottleneck_multiple {options.bottleneck_multiple:g} leaves no channel of {width}"
        )
    return Cell(
        in_channels=width,
        mid_channels=mid,
        out_channels=width,
        n_layers=2 if bottleneck else 0,
        kernel_size=(side, side),
        edge_kernel_size=(1, 1) if bottleneck else (side, side),
        residual=True,
        activation="gelu_tanh",
    )


def _stack(name: str, blocks: tuple[ResidualBlock, ...]) -> Table:
    table: Table = {}
    for n, block in enumerate(blocks):
        layers = block.cell.convolutions
        for k, (inputs, outputs, kernel) in enumerate(layers):
            scale = len(blocks) if k == len(layers) - 1 else 1
            table |= _convolution(f"{name}.blocks.{n}.convs.{k}", inputs, outputs, kernel, scale)
    return table


def _convolution(name: str, inputs: int, outputs: int, kernel: tuple[int, ...], scale: int = 1) -> Table:
    init = Init("fan_in_uniform", sqrt(3 / scale))
    return {
        f"{name}.weight": Parameter((outputs, inputs, *kernel), init),
        f"{name}.bias": Parameter((outputs,), ZEROS, decays=False),
    }
