"""Patches, pooling and enlargement of data with one, two or three axes."""

from einops import rearrange, reduce, repeat
from jax import Array

POOLS = {
    1: ("b (l s) c -> b l c", "s"),
    2: ("b (h s) (w t) c -> b h w c", "st"),
    3: ("b (d r) (h s) (w t) c -> b d h w c", "rst"),
}
"""Pooling functions by the number of axes."""
PATCHES = {
    1: ("b (l i) c", "b l (c i)", "i"),
    2: ("b (h i) (w j) c", "b h w (c i j)", "ij"),
    3: ("b (t k) (h i) (w j) c", "b t h w (c k i j)", "kij"),
}
"""Patterns of data and of maps of tokens, and names of a patch's axes, by the number of axes."""


def to_tokens(x: Array, patch: tuple[int, ...]) -> Array:
    """Data (B, ..., C) -> maps of tokens, one per patch, (B, *grid, C patch)."""
    data, tokens, names = PATCHES[len(patch)]
    return rearrange(x, f"{data} -> {tokens}", **dict(zip(names, patch, strict=True)))


def from_tokens(x: Array, patch: tuple[int, ...]) -> Array:
    """Maps of tokens (B, *grid, C patch) -> data (B, ..., C)."""
    data, tokens, names = PATCHES[len(patch)]
    return rearrange(x, f"{tokens} -> {data}", **dict(zip(names, patch, strict=True)))


def average_pool(x: Array, factors: tuple[int, ...]) -> Array:
    """Means over cells of extent `factors`: (B, ..., C)."""
    pattern, names = POOLS[len(factors)]
    return reduce(x, pattern, "mean", **dict(zip(names, factors, strict=True)))


def enlarge(x: Array, factors: tuple[int, ...]) -> Array:
    """Every value repeated `factors` times along the axes: (B, ..., C)."""
    pattern, names = POOLS[len(factors)]
    cells, whole = pattern.split(" -> ")
    return repeat(x, f"{whole} -> {cells}", **dict(zip(names, factors, strict=True)))
