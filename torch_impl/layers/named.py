"""Flat dicts of tensors under dotted names."""

from collections.abc import Mapping

from torch import Tensor

Tensors = Mapping[str, Tensor]


def under(tensors: Tensors | None, prefix: str) -> dict[str, Tensor]:
    """Entries `prefix` + '.' + name, under name."""
    start = f"{prefix}."
    return {
        name.removeprefix(start): value for name, value in (tensors or {}).items() if name.startswith(start)
    }
