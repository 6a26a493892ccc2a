"""Bookkeeping that both engines do on the host."""

from collections.abc import Mapping

import numpy as np


def metric_names(sizes: Mapping[str, int]) -> list[str]:
    """Names of a family's metrics, a vector of `size` values one name a value, and the gradient's norm."""
    names: list[str] = []
    for name, size in sizes.items():
        names += [f"{name}.{index}" for index in range(size)] if size else [name]
    return [*names, "grad_norm"]


def take_prefixed(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """Remove the arrays of a prefix and return them under their names without it."""
    return {name.removeprefix(prefix): arrays.pop(name) for name in list(arrays) if name.startswith(prefix)}


def padded_rows(n: int, multiple: int) -> np.ndarray:
    """Indices of `n` rows and, by repetition, as many more as make their number divisible."""
    return np.arange(-(-n // multiple) * multiple) % n
