"""Masking of tokens for training (MaskGIT, Chang et al. 2022, section 3.1, and the variants of open-muse,
Halton-MaskGIT and muse-maskgit-pytorch).

Tokens are (B, L), row by row; all noise is given and uniform, see `dioscuri/families/maskgit/masking.py`.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from dioscuri.families.token_models.masking_options import Masking
from dioscuri.schedules import MIN_RATIO, UNCLIPPED, mask_power

IGNORED = -100
"""Label of a position without a loss."""

UNMASKED_WEIGHT = 0.3
"""With `predict_all_tokens`: weight of an unmasked token at mask ratio 0."""


class Masked(NamedTuple):
    """The network's inputs and labels.

    `inputs` (B, L) ids; `labels` (B, L) ids or IGNORED; `mask` (B, L) bool, the masked positions; `ratio`
    (B,), the requested mask ratio; `weights` (B, L) of the positions in the loss.
    """

    inputs: Array
    labels: Array
    mask: Array
    ratio: Array
    weights: Array


def mask_ratio(name: str, t: Array, n: int = 256) -> Array:
    """Fraction of masked tokens at times t in [0, 1]; see `dioscuri.schedules.mask_ratio`."""
    power = mask_power(name)
    if power is not None:
        name, t = "linear", t**power
    match name:
        case "cosine":
            ratio = jnp.cos(t * math.pi * 0.5)
        case "arccos":
            ratio = jnp.arccos(t) * (2 / math.pi)
        case "root":
            ratio = 1 - jnp.sqrt(t)
        case "square":
            ratio = 1 - t * t
        case "log":
            ratio = -jnp.log2(jnp.clip(t, min=1e-30)) / math.log2(n)
        case "exp":
            ratio = 1 - jnp.exp2(-math.log2(n) * (1 - t))
        case "sigmoid":
            low, high = 1 / (1 + math.exp(3)), 1 / (1 + math.exp(-3))
            ratio = (high - jax.nn.sigmoid(6 * t - 3)) / (high - low)
        case _:
            ratio = 1 - t
    return ratio if name in UNCLIPPED else jnp.clip(ratio, MIN_RATIO, 1)


def mask_tokens(
    tokens: Array, noise: Mapping[str, Array], options: Masking, codebook_size: int, mask_id: int
) -> Masked:
    """Mask tokens (B, L) with the noise of `masking_noise`."""
    L = tokens.shape[1]
    ratio = jnp.clip(mask_ratio(options.mask_schedule, noise["time"], L), min=options.min_masking_rate)
    if options.masking == "bernoulli":
        mask = noise["order"] < ratio[:, None]
    else:
        counts = jnp.clip(jnp.round(L * ratio), min=1).astype(jnp.int32)
        mask = exact_mask(counts, noise["order"])
        if options.mask_contiguous_region_prob:
            region = draw_region(counts, noise["region"], math.isqrt(L))
            chosen = noise["coin"] < options.mask_contiguous_region_prob
            mask = jnp.where(chosen[:, None], region_mask(*region, math.isqrt(L)), mask)
    hidden = mask
    if options.no_mask_token_prob:
        hidden = mask & ~kept_positions(mask, noise["kept"], options.no_mask_token_prob)
    if options.noise_type == "random_replace":
        shown = random_tokens(noise["replacement"], codebook_size).astype(tokens.dtype)
    else:
        shown = jnp.full_like(tokens, mask_id)
    everywhere = options.predict_all_tokens or options.normalisation == "all"
    everywhere = everywhere or options.loss_weight_unmasked_token > 0
    labels = tokens if everywhere else jnp.where(mask, tokens, IGNORED)
    weights = loss_weights(mask, ratio, options)
    return Masked(jnp.where(hidden, shown, tokens), labels, mask, ratio, weights)


def loss_weights(mask: Array, ratio: Array, options: Masking) -> Array:
    """Weight (B, L) of every position: 1 if masked, else `loss_weight_unmasked_token` or, with
    `predict_all_tokens`, a weight that grows with the ratio."""
    masked = mask.astype(ratio.dtype)
    if options.predict_all_tokens:
        return 1 - (1 - masked) * ((1 - ratio[:, None]) * (1 - UNMASKED_WEIGHT))
    if options.normalisation == "all":
        return jnp.ones_like(masked)
    return masked + (1 - masked) * options.loss_weight_unmasked_token


def exact_mask(counts: Array, uniform: Array) -> Array:
    """Mask (B, L) of `counts` (B,) positions in each row, chosen by the order of `uniform` (B, L)."""
    return jnp.argsort(uniform, axis=1, stable=True) < counts[:, None]


def kept_positions(mask: Array, uniform: Array, probability: float) -> Array:
    """Mask of a fraction, rounded up, of each row's masked positions, as in muse-maskgit-pytorch."""
    lowest = jnp.where(mask, uniform, -1.0)
    ranks = jnp.argsort(jnp.argsort(lowest, axis=1, stable=True), axis=1)
    n = mask.sum(1, keepdims=True)
    return mask & (ranks - (mask.shape[1] - n) < probability * n)


def draw_region(counts: Array, uniform: Array, side: int) -> tuple[Array, Array, Array, Array]:
    """(height, width, row, column), each (B,), of a rectangle of about `counts` tokens.

    Height, row and column are uniform over all that fit; `uniform` is (B, 3).
    """
    low, high = _ceil_divided(counts, side), jnp.clip(counts, max=side)
    height = low + _floored(uniform[:, 0], high - low + 1)
    width = jnp.clip(_ceil_divided(counts, height), max=side)
    row = _floored(uniform[:, 1], side - height + 1)
    return height, width, row, _floored(uniform[:, 2], side - width + 1)


def region_mask(height: Array, width: Array, row: Array, column: Array, side: int) -> Array:
    """Rectangles as a mask (B, side^2)."""
    place = jnp.arange(side)[None]
    rows = (place >= row[:, None]) & (place < (row + height)[:, None])
    columns = (place >= column[:, None]) & (place < (column + width)[:, None])
    return (rows[:, :, None] & columns[:, None, :]).reshape(len(height), side**2)


def random_tokens(uniform: Array, codebook_size: int) -> Array:
    """Codes, uniformly distributed."""
    return jnp.clip((uniform * codebook_size).astype(jnp.int32), max=codebook_size - 1)


def drop_condition(
    condition: Mapping[str, Array], null: Mapping[str, Array], uniform: Array, probability: float
) -> dict[str, Array]:
    """Replace the conditions (B, ...) of dropped pictures, whose `uniform` (B,) is below `probability`.

    `null` holds the null conditions, in any shape that broadcasts. A condition that is not in `null` is not
    dropped.
    """
    dropped = dict(condition)
    for name, value in null.items():
        rows = (uniform < probability).reshape(-1, *[1] * (condition[name].ndim - 1))
        dropped[name] = jnp.where(rows, value.astype(condition[name].dtype), condition[name])
    return dropped


def _floored(uniform: Array, n: Array) -> Array:
    return jnp.minimum((uniform * n).astype(jnp.int32), n - 1)


def _ceil_divided(a: Array, b: Array | int) -> Array:
    return (a + b - 1) // b
