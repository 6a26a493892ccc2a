"""Bookkeeping that both engines do on the host."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any

import numpy as np

from dioscuri.errors import UserError


def metric_names(sizes: Mapping[str, int]) -> list[str]:
    """Names of a family's metrics, a vector of `size` values one name a value, and the gradient's norm."""
    names: list[str] = []
    for name, size in sizes.items():
        names += [f"{name}.{index}" for index in range(size)] if size else [name]
    return [*names, "grad_norm"]


def padded_rows(n: int, multiple: int) -> np.ndarray:
    """Indices of `n` rows and, by repetition, as many more as make their number divisible."""
    return np.arange(-(-n // multiple) * multiple) % n


def mode(family: Any, method: str) -> Callable[..., Any]:
    """A method of a family's adapter; a `UserError` where it has none of that name."""
    function: Callable[..., Any] | None = getattr(family, method, None)
    if function is None:
        raise UserError(f"[run] family '{family.hparams.run.family}' has no mode '{method}'")
    return function


def split_arguments(arguments: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(static ones, numbers): text, whole numbers, truth values and frozen options decide what is computed;
    floats, arrays and sequences of them are data, and become arrays or lists of arrays; None is left out."""
    given = {name: value for name, value in arguments.items() if value is not None}
    static = {
        name: value for name, value in given.items() if isinstance(value, str | int) or is_dataclass(value)
    }
    return static, {name: _numbers(value) for name, value in given.items() if name not in static}


def _numbers(value: Any) -> Any:
    if isinstance(value, list | tuple) and value and isinstance(value[0], np.ndarray):
        return list(value)
    return np.asarray(value)


def step_numbers(
    scalars: Mapping[str, float], switches: Sequence[str], ema_decay: float
) -> tuple[dict[str, float], dict[str, bool]]:
    """The schedules' values: numbers, with `ema_rate` = 1 - decay (a schedule's `ema_decay`, else the given
    one), and the family's switches, which decide what is computed."""
    numbers = {name: value for name, value in scalars.items() if name not in ("ema_decay", *switches)}
    numbers["ema_rate"] = 1 - scalars.get("ema_decay", ema_decay)
    return numbers, {name: bool(scalars[name]) for name in switches}
