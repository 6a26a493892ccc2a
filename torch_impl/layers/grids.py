"""Patches, pooling and enlargement of data with one, two or three axes."""

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

POOLS = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
"""Pooling functions by the number of axes."""
PATCHES = {
    1: ("b (l i) c", "b (c i) l", "i"),
    2: ("b (h i) (w j) c", "b (c i j) h w", "ij"),
    3: ("b (t k) (h i) (w j) c", "b (c k i j) t h w", "kij"),
}
"""Patterns of data and of maps of tokens, and names of a patch's axes, by the number of axes."""


def to_tokens(x: Tensor, patch: tuple[int, ...]) -> Tensor:
    """Data (B, ..., C) -> maps of tokens, one per patch, (B, C patch, *grid)."""
    data, tokens, names = PATCHES[len(patch)]
    return rearrange(x, f"{data} -> {tokens}", **dict(zip(names, patch, strict=True)))


def from_tokens(x: Tensor, patch: tuple[int, ...]) -> Tensor:
    """Maps of tokens (B, C patch, *grid) -> data (B, ..., C)."""
    data, tokens, names = PATCHES[len(patch)]
    return rearrange(x, f"{tokens} -> {data}", **dict(zip(names, patch, strict=True)))


def average_pool(x: Tensor, factors: tuple[int, ...]) -> Tensor:
    """Means over cells of extent `factors`: (B, C, ...)."""
    return POOLS[len(factors)](x, factors)


def enlarge(x: Tensor, factors: tuple[int, ...]) -> Tensor:
    """Every value repeated `factors` times along the axes: (B, C, ...)."""
    for axis, factor in enumerate(factors, start=2):
        x = x.repeat_interleave(factor, axis)
    return x
