"""Flat dicts of arrays under dotted names."""

from collections.abc import Mapping

from jax import Array

Arrays = Mapping[str, Array]


def under(arrays: Arrays | None, prefix: str) -> dict[str, Array]:
    """Entries `prefix` + '.' + name, under name."""
    start = f"{prefix}."
    return {
        name.removeprefix(start): value for name, value in (arrays or {}).items() if name.startswith(start)
    }
