"""Blocks of Metroplex's layer plan: convolutional (VD-VAE, Child 2021), or with variational attention."""

from collections.abc import Callable
from dataclasses import dataclass

from dioscuri.errors import UserError
from dioscuri.families.hierarchical_vae.plan import Cell
from dioscuri.families.latent_models.grids import Grid, factors, kernel
from dioscuri.families.metroplex.block_strings import (
    DecoderStep,
    EncoderStep,
    decoder_blocks,
    encoder_blocks,
    widths,
)
from dioscuri.families.metroplex.options import Model
from dioscuri.families.metroplex.presets import Strings


@dataclass(frozen=True, kw_only=True)
class SelfAttention:
    """Multi-head self-attention over a grid of tokens or, with `rows`, within each row of a square."""

    width: int
    heads: int
    grid: Grid
    rows: bool = False
    norm: bool = False  # before it and before the feed-forward nets of its block


@dataclass(frozen=True, kw_only=True)
class UpBlock:
    """Bottom-up block: a cell, average pooling by `pool`, zero channels up to `out_channels`."""

    resolution: int
    cell: Cell
    pool: Grid  # along every axis; 1: no pooling
    out_resolution: int  # after pooling
    out_channels: int
    attention: SelfAttention | None


@dataclass(frozen=True, kw_only=True)
class DownBlock:
    """Top-down block: adds the enlarged state of `mixin`, then one latent group and a residual cell."""

    level: int
    resolution: int
    grid: Grid
    channels: int
    mixin: int  # resolution whose state is added; 0: none
    enlargement: Grid  # of that state, along every axis
    variates: int
    posterior: Cell
    prior: Cell
    residual: Cell
    attention: SelfAttention | None


@dataclass(frozen=True, kw_only=True)
class AttentionUpBlock:
    """Bottom-up block of a transformer: self-attention and a feed-forward net, each added to the tokens."""

    attention: SelfAttention


@dataclass(frozen=True, kw_only=True)
class AttentionDownBlock:
    """Top-down block of a transformer: one latent group whose posterior reads activation `source`."""

    level: int
    resolution: int
    grid: Grid
    channels: int
    variates: int
    source: int
    attention: SelfAttention
    attends_in_prior: bool  # else before the prior, for everything after it
    posterior: str  # attn, cnn or ffn
    posterior_cell: Cell | None  # for 'cnn'


def convolutional_blocks(
    model: Model, spec: Strings, grid: Callable[[int], Grid]
) -> tuple[tuple[UpBlock, ...], tuple[DownBlock, ...], tuple[int, ...], int]:
    """Bottom-up and top-down blocks, the resolutions whose state begins with a learned tensor, and the width
    at the finest one. `grid` maps a resolution to its grid of tokens."""
    width = widths(spec.custom_widths, spec.outer_width)
    steps = encoder_blocks(spec.encoder)
    if width(steps[0].resolution) != spec.outer_width:
        raise UserError(
            f"[model] custom_width_str gives resolution {steps[0].resolution} the width "
            f"{width(steps[0].resolution)}, but the input convolution has outer_width {spec.outer_width}"
        )
    up = tuple(
        _up_block(model, step, grid, width(step.resolution), width(step.out_resolution)) for step in steps
    )
    decoder_steps = decoder_blocks(spec.decoder)
    seen = {step.resolution for step in steps} | {steps[-1].out_resolution}
    levels = list(dict.fromkeys(step.resolution for step in decoder_steps))
    for step in decoder_steps:
        if step.resolution not in seen:
            raise UserError(
                f"[model] dec_blocks '{spec.decoder}' uses resolution {step.resolution}, which enc_blocks "
                f"'{spec.encoder}' skips"
            )
    if levels[-1] != steps[0].resolution:
        raise UserError(
            f"[model] dec_blocks '{spec.decoder}' ends at resolution {levels[-1]}, enc_blocks begins at "
            f"{steps[0].resolution}: they must be equal"
        )
    down = tuple(
        _down_block(model, levels.index(step.resolution), step, grid, width(step.resolution))
        for step in decoder_steps
    )
    start = tuple(sorted(resolution for resolution in levels if resolution <= model.no_bias_above))
    return up, down, start, width(levels[-1])


def _up_block(
    model: Model, step: EncoderStep, grid: Callable[[int], Grid], width: int, following: int
) -> UpBlock:
    if following < width:
        raise UserError(
            f"[model] custom_width_str shrinks from {width} at resolution {step.resolution} to {following} "
            f"at {step.out_resolution}: the encoder can add channels but not remove them"
        )
    tokens = grid(step.resolution)
    return UpBlock(
        resolution=step.resolution,
        cell=_cell(model, tokens, width, width, width),
        pool=factors(tokens, grid(step.out_resolution)),
        out_resolution=step.out_resolution,
        out_channels=following,
        attention=_pre_attention(model, tokens, width),
    )


def _down_block(
    model: Model, level: int, step: DecoderStep, grid: Callable[[int], Grid], width: int
) -> DownBlock:
    variates, tokens = _variates(model, width), grid(step.resolution)
    return DownBlock(
        level=level,
        resolution=step.resolution,
        grid=tokens,
        channels=width,
        mixin=step.mixin,
        enlargement=factors(tokens, grid(step.mixin)) if step.mixin else (1,) * len(tokens),
        variates=variates,
        posterior=_cell(model, tokens, width, 2 * width, 2 * variates),
        prior=_cell(model, tokens, width, width, 2 * variates + width),
        residual=_cell(model, tokens, width, width, width),
        attention=_pre_attention(model, tokens, width),
    )


def _cell(model: Model, grid: Grid, width: int, inputs: int, outputs: int) -> Cell:
    """Bottleneck (1x1, two 3x3, 1x1) or, for block type 'diffusion', two 3x3; kernels are 1 along axes of at
    most two tokens."""
    bottleneck = model.block_type == "bottleneck"
    mid = int(width * model.bottleneck_multiple) if bottleneck else width
    if mid < 1:
        raise UserError(
            f"[model] bottleneck_multiple {model.bottleneck_multiple:g} leaves no channel of {width}"
        )
    return Cell(
        in_channels=inputs,
        mid_channels=mid,
        out_channels=outputs,
        n_layers=2 if bottleneck else 0,
        kernel_size=kernel(grid),
        edge_kernel_size=kernel(grid, 1) if bottleneck else kernel(grid),
        residual=inputs == outputs == width,
        activation=model.gelu,
    )


def _variates(model: Model, width: int) -> int:
    variates = width if model.zdim == -1 else model.zdim or width // model.zdim_factor
    if variates < 1:
        raise UserError(f"[model] zdim_factor {model.zdim_factor} leaves no latent channel of width {width}")
    return variates


def _heads(width: int, head_dim: int) -> int:
    if width % head_dim:
        raise UserError(f"[model] head_dim {head_dim} does not divide the width {width}")
    return width // head_dim


def _pre_attention(model: Model, grid: Grid, width: int) -> SelfAttention | None:
    resolution = grid[-1]
    if resolution not in model.attn_res:
        return None
    if model.legacy_row_attention and len(grid) != 2:
        raise UserError("[model] legacy_row_attention is for pictures only: set it to False for other data")
    if width % model.attn_heads:
        raise UserError(
            f"[model] attn_heads {model.attn_heads} does not divide {width}, the width of resolution "
            f"{resolution}"
        )
    return SelfAttention(width=width, heads=model.attn_heads, grid=grid, rows=model.legacy_row_attention)


def transformer_blocks(
    model: Model, spec: Strings, grid: Callable[[int], Grid]
) -> tuple[tuple[AttentionUpBlock, ...], tuple[AttentionDownBlock, ...], tuple[int, ...], int]:
    """The same as `convolutional_blocks` for a transformer."""
    side, width, n = model.base_hidden_res, spec.outer_width, model.depth
    tokens = grid(side)
    steps, decoder_steps = encoder_blocks(spec.encoder), decoder_blocks(spec.decoder)
    if {step.out_resolution for step in steps} | {step.resolution for step in decoder_steps} != {side}:
        raise UserError(
            "[model] transformer needs one resolution, base_hidden_res: leave prog_mode, enc_blocks and "
            "dec_blocks out"
        )
    if len(steps) != n or len(decoder_steps) != n:
        raise UserError(f"[model] transformer needs {n} encoder and decoder blocks, as in depth")
    if model.abs_enc != "none" and width % (2 * len(tokens)):
        raise UserError(f"[model] abs_enc needs a width that is a multiple of {2 * len(tokens)}, not {width}")
    attention = SelfAttention(
        width=width, heads=_heads(width, model.head_dim), grid=tokens, norm=model.norm == "layer"
    )
    down = tuple(
        AttentionDownBlock(
            level=0,
            resolution=side,
            grid=tokens,
            channels=width,
            variates=_variates(model, width),
            source=i if model.enc_dec_mode else n - 1 - i,
            attention=attention,
            attends_in_prior=model.attn_block_opt == 1,
            posterior=model.enc_mode,
            posterior_cell=_posterior_cell(model, tokens, width),
        )
        for i in range(n)
    )
    return (AttentionUpBlock(attention=attention),) * n, down, (side,), width


def _posterior_cell(model: Model, grid: Grid, width: int) -> Cell | None:
    """For 'cnn', the cell that reads the generative state and the encoder's activation."""
    if model.enc_mode != "cnn":
        return None
    if width < 4:
        raise UserError(f"[model] enc_mode 'cnn' needs a width of at least 4, not {width}")
    return Cell(
        in_channels=2 * width,
        mid_channels=width // 4,
        out_channels=width,
        n_layers=2,
        kernel_size=kernel(grid),
        edge_kernel_size=kernel(grid, 1),
        residual=False,
        activation=model.gelu,
    )
