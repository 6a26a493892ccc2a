"""Layers of SUNDAE's networks: grids, rotary frequencies, parameters."""

from dataclasses import dataclass
from functools import lru_cache
from math import isqrt, sqrt

import numpy as np

from dioscuri.errors import UserError
from dioscuri.families.maskgit.tables import dense
from dioscuri.families.sundae.model_options import Denoiser
from dioscuri.families.sundae.options import HParams
from dioscuri.plans.parameters import ONES, ZEROS, Init, Parameter, Table, initial_values

FEED_FORWARD = 4
"""Ratio of the width inside a feed-forward layer to the model's."""
EPS = 1e-5
LEGACY_SIDE = 16
"""Side of the grid that the original assumes for positions in all but the coarsest level."""
TEXT_ROTARY = 32
"""Channels of a head that rotate with the position in a text."""


@dataclass(frozen=True)
class Stack:
    """Transformer layers on a grid of `side` x `side` tokens. Rotary angles reach pi
    `max_frequency` / 2; 0: no rotation."""

    depth: int
    side: int
    max_frequency: int


@dataclass(frozen=True)
class Level:
    """Layers on a grid, before and after those on a grid whose side is `factor` times smaller."""

    side: int
    factor: int
    before: Stack
    inside: "Stack | Level"
    after: Stack


@dataclass(frozen=True)
class DenoiserPlan:
    """The plan of a network on sequences of `n_tokens` ids below `codebook_size`.

    `grid` is the side of a picture in tokens, 0 for text; `body` the layers.
    """

    options: Denoiser
    grid: int
    n_tokens: int
    codebook_size: int
    body: Stack | Level

    @property
    def token_shape(self) -> tuple[int, ...]:
        """Shape of an example's tokens: (h, w), or (1, L) of a text."""
        return (self.grid, self.grid) if self.grid else (1, self.n_tokens)

    @property
    def conditions(self) -> tuple[str, ...]:
        """Names of the conditions that the network reads."""
        return ("label",) if self.options.num_classes else ()

    @property
    def replacements(self) -> int:
        """Number of codes from which replacements of hidden tokens are drawn in evaluation."""
        return self.codebook_size

    @property
    def attention_width(self) -> int:
        """Width of all heads together."""
        return self.options.nb_heads * self.options.dim_head


def plan_of(hparams: HParams) -> DenoiserPlan:
    """`make_plan` for a run's options."""
    data = hparams.data
    return make_plan(hparams.model, data.grid, data.codebook_size, data.sequence_length)


@lru_cache  # host logic and both sides of the engine need the same plan
def make_plan(model: Denoiser, grid: int, codebook_size: int, length: int = 0) -> DenoiserPlan:
    """Plan for grids of `grid` x `grid` tokens or, with `grid` 0, for texts of `length`.

    A `UserError` names an option that does not fit.
    """
    if codebook_size < 2 or (grid > 0) == (length > 0):
        raise UserError(
            f"[data] grid {grid}, sequence_length {length} and codebook_size {codebook_size} are empty: give "
            "a grid, or for text grid=0 and a length"
        )
    if model.architecture == "transformer":
        body: Stack | Level = _text_body(model)
    else:
        body = _body(model, grid)
    return DenoiserPlan(model, grid, grid**2 or length, codebook_size, body)


def angles(stack: Stack, model: Denoiser) -> np.ndarray:
    """Angles (L, 1, P) by which the first P pairs of channels of every head rotate, float64; with
    `legacy_positions` (L, N, K / 2), where the first pairs of all heads together rotate and the others do
    not.

    The first half of the pairs follows the row, the second half the column; both range from -1 to 1.
    """
    frequencies = axis_frequencies(stack, model)
    axis = np.linspace(-1, 1, stack.side)[:, None] * frequencies
    rows, columns = np.repeat(axis, stack.side, 0), np.tile(axis, (stack.side, 1))
    table = np.concatenate([rows, columns], 1)
    if not model.legacy_positions:
        return table[:, None]
    pairs = model.dim_head // 2
    still = model.nb_heads * pairs - table.shape[1]
    return np.pad(table, ((0, 0), (0, still))).reshape(-1, model.nb_heads, pairs)


def axis_frequencies(stack: Stack, model: Denoiser) -> np.ndarray:
    """Angle per unit of position on one axis, for each pair of channels that rotates with it."""
    return np.pi * np.linspace(1, stack.max_frequency / 2, model.axis_channels // 2)


def text_angles(length: int) -> np.ndarray:
    """Angles (L, 1, TEXT_ROTARY / 2) of a text, float64 (Su et al. 2021)."""
    inverse = 10000.0 ** (-np.arange(0, TEXT_ROTARY, 2) / TEXT_ROTARY)
    return np.arange(length)[:, None, None] * inverse


def parameter_table(plan: DenoiserPlan) -> Table:
    """Every parameter under its canonical name, which is the original's. Initial
    values are PyTorch's defaults.

    Weight decay acts on matrices, not on embeddings, norms and biases.
    """
    options, d = plan.options, plan.options.dim
    is_text = options.architecture == "transformer"
    table = _embedding("token_emb", plan.codebook_size, d, sqrt(2 / d) if is_text else 1.0)
    if options.num_classes:
        table |= _embedding("class_emb", options.num_classes, d)
    if not options.use_rotary:
        table |= _embedding("pos_emb", plan.n_tokens, d)
    if is_text:
        assert isinstance(plan.body, Stack)
        table |= _text_layers(plan, plan.body.depth) | _norm("norm", d)
    else:
        table |= _body_table("transformer", plan.body, plan)
        table |= _norm(f"transformer.{'norm' if isinstance(plan.body, Stack) else 'norm_out'}", d)
    return table | dense("to_logits", d, plan.codebook_size, bias=True)


def initial_parameters(plan: DenoiserPlan, seed: int) -> dict[str, np.ndarray]:
    """Initial values, float32."""
    return initial_values(parameter_table(plan), seed)


def _text_body(model: Denoiser) -> Stack:
    if not isinstance(model.depth, int):
        raise UserError(f"[model] depth {model.depth} must be one number for architecture 'transformer'")
    if model.use_rotary and model.dim_head < TEXT_ROTARY:
        raise UserError(f"[model] dim_head {model.dim_head} must be at least {TEXT_ROTARY} for text")
    return Stack(model.depth, 0, 0)


def _body(model: Denoiser, grid: int) -> Stack | Level:
    if not grid:
        raise UserError(
            "[model] architecture 'hourglass' needs a grid of tokens: choose 'transformer' for text"
        )
    n_levels, factors = _n_levels(model.depth), model.shorten_factor
    if isinstance(factors, int):
        factors = (factors,) * max(n_levels, 1) if factors else ()
    if len(factors) != n_levels:
        raise UserError(
            f"[model] shorten_factor has {len(factors)} factors for the {n_levels} levels of depth "
            f"{model.depth}: give one per level"
        )
    for factor in factors:
        if factor < 4 or isqrt(factor) ** 2 != factor:
            raise UserError(
                f"[model] shorten_factor {factor} is not a square number of at least 4: each side of a grid "
                "shrinks by its root"
            )
    return _level(model, model.depth, grid, tuple(isqrt(factor) for factor in factors), grid)


def _n_levels(depth: object) -> int:
    return 1 + _n_levels(depth[1]) if isinstance(depth, tuple) else 0


def _level(model: Denoiser, depth: object, side: int, factors: tuple[int, ...], whole: int) -> Stack | Level:
    if isinstance(depth, int):
        return _stack(model, depth, side, side)
    assert isinstance(depth, tuple)
    factor = factors[0]
    if side % factor:
        raise UserError(
            f"[model] shorten_factor {factor**2} needs a side divisible by {factor}: the grid of "
            f"{whole}x{whole} tokens has {side}x{side} there"
        )
    outer = LEGACY_SIDE if model.legacy_positions else side
    before, after = (_stack(model, layers, side, outer) for layers in (depth[0], depth[2]))
    return Level(side, factor, before, _level(model, depth[1], side // factor, factors[1:], whole), after)


def _stack(model: Denoiser, depth: int, side: int, frequency: int) -> Stack:
    return Stack(depth, side, frequency if model.use_rotary else 0)


def _body_table(name: str, body: Stack | Level, plan: DenoiserPlan) -> Table:
    if isinstance(body, Stack):
        return _layers(name, body.depth, plan)
    d, s = plan.options.dim, body.factor**2
    table: Table = {}
    if plan.options.updown_sample_type == "linear":
        table |= dense(f"{name}.downsample.proj", d * s, d, bias=True)
        table |= dense(f"{name}.upsample.proj", d, d * s, bias=True)
    table |= _layers(f"{name}.pre_transformer", body.before.depth, plan)
    table |= _body_table(f"{name}.valley_transformer", body.inside, plan)
    table |= _layers(f"{name}.post_transformer", body.after.depth, plan)
    if plan.options.attn_resampling:
        for module in ("attn_resampling_pre_valley", "attn_resampling_post_valley"):
            table |= _layers(f"{name}.{module}", 1, plan)
    return table


def _layers(name: str, depth: int, plan: DenoiserPlan) -> Table:
    d, inner = plan.options.dim, plan.attention_width
    table: Table = {}
    for i in range(depth):
        layer = f"{name}.layers.{i}"
        table |= _norm(f"{layer}.0.norm", d)
        table |= dense(f"{layer}.0.fn.to_q", d, inner, bias=False)
        table |= dense(f"{layer}.0.fn.to_kv", d, 2 * inner, bias=False)
        table |= dense(f"{layer}.0.fn.to_out", inner, d, bias=True)
        table |= _norm(f"{layer}.1.norm", d)
        table |= dense(f"{layer}.1.fn.0", d, FEED_FORWARD * d, bias=True)
        table |= dense(f"{layer}.1.fn.3", FEED_FORWARD * d, d, bias=True)
    return table


def _text_layers(plan: DenoiserPlan, depth: int) -> Table:
    options, d, inner = plan.options, plan.options.dim, plan.attention_width
    table: Table = {}
    hidden = FEED_FORWARD * d
    for i in range(2 * depth):
        layer = f"attn_layers.layers.{i}"
        if options.use_scalenorm:
            table[f"{layer}.0.0.g"] = Parameter((1,), Init("constant", d**-0.5), decays=False)
        else:
            table |= _norm(f"{layer}.0.0", d)
        if i % 2:
            first = f"{layer}.1.net.0.{'proj' if options.use_glu else '0'}"
            table |= dense(first, d, hidden * (1 + options.use_glu), bias=True)
            table |= dense(f"{layer}.1.net.3", hidden, d, bias=True)
        else:
            for projection in ("to_q", "to_k", "to_v"):
                table |= dense(f"{layer}.1.{projection}", d, inner, bias=False)
            table |= dense(f"{layer}.1.to_out", inner, d, bias=True)
    return table


def _embedding(name: str, rows: int, width: int, deviation: float = 1.0) -> Table:
    return {f"{name}.weight": Parameter((rows, width), Init("normal", deviation), decays=False)}


def _norm(name: str, width: int) -> Table:
    return {
        f"{name}.weight": Parameter((width,), ONES, decays=False),
        f"{name}.bias": Parameter((width,), ZEROS, decays=False),
    }
