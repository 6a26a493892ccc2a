"""Masking of tokens for training (MaskGIT, Chang et al. 2022, section 3.1, and the variants of open-muse,
Halton-MaskGIT and muse-maskgit-pytorch).

Tokens are (B, L), row by row; all noise is given and uniform, see `dioscuri/families/maskgit/masking.py`.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

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

    inputs: Tensor
    labels: Tensor
    mask: Tensor
    ratio: Tensor
    weights: Tensor


def mask_ratio(name: str, t: Tensor, n: int = 256) -> Tensor:
    """Fraction of masked tokens at times t in [0, 1]; see `dioscuri.schedules.mask_ratio`."""
    power = mask_power(name)
    if power is not None:
        name, t = "linear", t**power
    match name:
        case "cosine":
            ratio = torch.cos(t * math.pi * 0.5)
        case "arccos":
            ratio = torch.arccos(t) * (2 / math.pi)
        case "root":
            ratio = 1 - torch.sqrt(t)
        case "square":
            ratio = 1 - t * t
        case "log":
            ratio = -torch.log2(torch.clamp(t, min=1e-30)) / math.log2(n)
        case "exp":
            ratio = 1 - torch.exp2(-math.log2(n) * (1 - t))
        case "sigmoid":
            low, high = 1 / (1 + math.exp(3)), 1 / (1 + math.exp(-3))
            ratio = (high - torch.sigmoid(6 * t - 3)) / (high - low)
        case _:
            ratio = 1 - t
    return ratio if name in UNCLIPPED else torch.clamp(ratio, MIN_RATIO, 1)


def mask_tokens(
    tokens: Tensor, noise: Mapping[str, Tensor], options: Masking, codebook_size: int, mask_id: int
) -> Masked:
    """Mask tokens (B, L) with the noise of `masking_noise`."""
    L = tokens.shape[1]
    ratio = torch.clamp(mask_ratio(options.mask_schedule, noise["time"], L), min=options.min_masking_rate)
    if options.masking == "bernoulli":
        mask = noise["order"] < ratio[:, None]
    else:
        counts = torch.clamp(torch.round(L * ratio), min=1).to(torch.int64)
        mask = exact_mask(counts, noise["order"])
        if options.mask_contiguous_region_prob:
            region = draw_region(counts, noise["region"], math.isqrt(L))
            chosen = noise["coin"] < options.mask_contiguous_region_prob
            mask = torch.where(chosen[:, None], region_mask(*region, math.isqrt(L)), mask)
    hidden = mask
    if options.no_mask_token_prob:
        hidden = mask & ~kept_positions(mask, noise["kept"], options.no_mask_token_prob)
    if options.noise_type == "random_replace":
        shown = random_tokens(noise["replacement"], codebook_size).to(tokens.dtype)
    else:
        shown = torch.full_like(tokens, mask_id)
    everywhere = options.predict_all_tokens or options.normalisation == "all"
    everywhere = everywhere or options.loss_weight_unmasked_token > 0
    labels = tokens if everywhere else torch.where(mask, tokens, IGNORED)
    weights = loss_weights(mask, ratio, options)
    return Masked(torch.where(hidden, shown, tokens), labels, mask, ratio, weights)


def loss_weights(mask: Tensor, ratio: Tensor, options: Masking) -> Tensor:
    """Weight (B, L) of every position: 1 if masked, else `loss_weight_unmasked_token` or, with
    `predict_all_tokens`, a weight that grows with the ratio."""
    masked = mask.to(ratio.dtype)
    if options.predict_all_tokens:
        return 1 - (1 - masked) * ((1 - ratio[:, None]) * (1 - UNMASKED_WEIGHT))
    if options.normalisation == "all":
        return torch.ones_like(masked)
    return masked + (1 - masked) * options.loss_weight_unmasked_token


def exact_mask(counts: Tensor, uniform: Tensor) -> Tensor:
    """Mask (B, L) of `counts` (B,) positions in each row, chosen by the order of `uniform` (B, L)."""
    return torch.argsort(uniform, dim=1, stable=True) < counts[:, None]


def kept_positions(mask: Tensor, uniform: Tensor, probability: float) -> Tensor:
    """Mask of a fraction, rounded up, of each row's masked positions, as in muse-maskgit-pytorch."""
    lowest = torch.where(mask, uniform, -1.0)
    ranks = torch.argsort(torch.argsort(lowest, dim=1, stable=True), dim=1)
    n = mask.sum(1, keepdim=True)
    return mask & (ranks - (mask.shape[1] - n) < probability * n)


def draw_region(counts: Tensor, uniform: Tensor, side: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(height, width, row, column), each (B,), of a rectangle of about `counts` tokens.

    Height, row and column are uniform over all that fit; `uniform` is (B, 3).
    """
    low, high = _ceil_divided(counts, side), torch.clamp(counts, max=side)
    height = low + _floored(uniform[:, 0], high - low + 1)
    width = torch.clamp(_ceil_divided(counts, height), max=side)
    row = _floored(uniform[:, 1], side - height + 1)
    return height, width, row, _floored(uniform[:, 2], side - width + 1)


def region_mask(height: Tensor, width: Tensor, row: Tensor, column: Tensor, side: int) -> Tensor:
    """Rectangles as a mask (B, side^2)."""
    place = torch.arange(side, device=height.device)
    rows = (place >= row[:, None]) & (place < (row + height)[:, None])
    columns = (place >= column[:, None]) & (place < (column + width)[:, None])
    return (rows[:, :, None] & columns[:, None, :]).flatten(1)


def random_tokens(uniform: Tensor, codebook_size: int) -> Tensor:
    """Codes, uniformly distributed."""
    return torch.clamp((uniform * codebook_size).to(torch.int64), max=codebook_size - 1)


def drop_condition(
    condition: Mapping[str, Tensor], null: Mapping[str, Tensor], uniform: Tensor, probability: float
) -> dict[str, Tensor]:
    """Replace the conditions (B, ...) of dropped pictures, whose `uniform` (B,) is below `probability`.

    `null` holds the null conditions, in any shape that broadcasts. A condition that is not in `null` is not
    dropped.
    """
    dropped = dict(condition)
    for name, value in null.items():
        rows = (uniform < probability).reshape(-1, *[1] * (condition[name].ndim - 1))
        dropped[name] = torch.where(rows, value.to(condition[name].dtype), condition[name])
    return dropped


def _floored(uniform: Tensor, n: Tensor) -> Tensor:
    return torch.minimum((uniform * n).to(torch.int64), n - 1)


def _ceil_divided(a: Tensor, b: Tensor | int) -> Tensor:
    return (a + b - 1) // b
