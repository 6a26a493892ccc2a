"""Dropout with given noise, and the parts of flat dicts of named arrays."""

from collections.abc import Mapping

from torch import Tensor

Tensors = Mapping[str, Tensor]


def dropout(x: Tensor, uniform: Tensor | None, rate: float) -> Tensor:
    """Zero where `uniform`, on [0, 1) and of the shape of x, is below `rate`; the rest grows by
    1 / (1 - rate). Without noise or rate: x."""
    if uniform is None or not rate:
        return x
    return x * (uniform >= rate).to(x.dtype) / (1 - rate)


def part(arrays: Tensors | None, prefix: str) -> dict[str, Tensor]:
    """Entries `prefix` + '.' + name, under name."""
    return {
        name.removeprefix(f"{prefix}."): value
        for name, value in (arrays or {}).items()
        if name.startswith(f"{prefix}.")
    }
