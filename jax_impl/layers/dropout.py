"""Dropout with given noise, and the parts of flat dicts of named arrays."""

from collections.abc import Mapping

from jax import Array

Arrays = Mapping[str, Array]


def dropout(x: Array, uniform: Array | None, rate: float) -> Array:
    """Zero where `uniform`, on [0, 1) and of the shape of x, is below `rate`; the rest grows by
    1 / (1 - rate). Without noise or rate: x."""
    if uniform is None or not rate:
        return x
    return x * (uniform >= rate).astype(x.dtype) / (1 - rate)


def part(arrays: Arrays | None, prefix: str) -> dict[str, Array]:
    """Entries `prefix` + '.' + name, under name."""
    return {
        name.removeprefix(f"{prefix}."): value
        for name, value in (arrays or {}).items()
        if name.startswith(f"{prefix}.")
    }
