"""Strict comparison of tensors with the names and shapes of an architecture."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from dioscuri.errors import UserError


def match(
    expected: Mapping[str, tuple[int, ...]], arrays: Mapping[str, Any], what: str, where: object
) -> None:
    """Raise a `UserError` that names the first tensor, in order of names, that is missing, unknown or of the
    wrong shape.

    `arrays` maps names to anything with a `shape`, `what` names the group of tensors ("model", "ema", ...)
    and `where` the file or folder that they come from. Numbers in names are sorted as numbers: `blocks.2`
    before `blocks.10`.
    """
    differing = [
        name
        for name in expected.keys() | arrays.keys()
        if name not in expected or name not in arrays or tuple(arrays[name].shape) != tuple(expected[name])
    ]
    if not differing:
        return
    first = min(differing, key=_natural_order)
    rest = f" ({len(differing) - 1} more differ)" if len(differing) > 1 else ""
    raise UserError(
        f"{where}: {what} tensor '{first}' {_difference(first, expected, arrays)}{rest}: "
        "the checkpoint has another architecture than the configuration"
    )


def check_finite(arrays: Mapping[str, np.ndarray], where: object) -> None:
    """Raise a `UserError` that names the first tensor, in order of names, that holds NaN or infinity."""
    broken = [
        name for name, array in arrays.items() if array.dtype.kind == "f" and not np.isfinite(array).all()
    ]
    if not broken:
        return
    first = min(broken, key=_natural_order)
    n = int((~np.isfinite(arrays[first])).sum())
    rest = f", and {len(broken) - 1} more tensors hold such values" if len(broken) > 1 else ""
    raise UserError(
        f"{where}: tensor '{first}' holds NaN or infinity ({n} of {arrays[first].size} values){rest}: the "
        "training failed, or the file is damaged"
    )


def _difference(name: str, expected: Mapping[str, tuple[int, ...]], arrays: Mapping[str, Any]) -> str:
    if name not in arrays:
        return f"is missing, the configuration has it with shape {tuple(expected[name])}"
    shape = tuple(arrays[name].shape)
    if name not in expected:
        return f"with shape {shape} is unknown to the configuration"
    return f"has shape {shape} but the configuration has {tuple(expected[name])}"


def _natural_order(name: str) -> list[tuple[int, str]]:
    """Sort key that orders numbers by value, before words."""
    return [
        (int(piece), "") if piece.isdecimal() else (-1, piece) for piece in re.split(r"(\d+)", name) if piece
    ]
