"""Recorded noise as an argument of a call, for equal results from both twins."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from dioscuri.engine import Array
from dioscuri.errors import UserError, kind_of
from dioscuri.inputs import to_array
from dioscuri.plans.noise import NoiseSpec


def checked_noise(given: Any, specs: Iterable[NoiseSpec]) -> dict[str, Array]:
    """Recorded noise, whose names and shapes are those of `specs`."""
    shapes = {spec.name: spec.shape for spec in specs}
    if not isinstance(given, Mapping) or set(given) != set(shapes):
        names = ", ".join(shapes) or "none"
        has = ", ".join(map(str, given)) if isinstance(given, Mapping) else kind_of(given)
        raise UserError(f"noise must have the arrays {names}; got {has}")
    arrays = {name: to_array(array, f"noise '{name}' must be an array") for name, array in given.items()}
    for name, shape in shapes.items():
        if arrays[name].shape != shape:
            raise UserError(f"noise '{name}' must be {shape}; got {arrays[name].shape}")
        if not np.isfinite(arrays[name]).all():
            raise UserError(f"noise '{name}' holds values that are not finite")
    return arrays


def drawn(rng: np.random.Generator, spec: NoiseSpec) -> Array:
    """An array of noise, drawn by numpy."""
    if spec.kind == "normal":
        return rng.standard_normal(spec.shape, np.float32)
    uniform = rng.uniform(spec.low, spec.high, spec.shape)
    noise = -np.log(-np.log(uniform.clip(1e-20, 1 - 1e-7))) if spec.kind == "gumbel" else uniform
    return np.asarray(noise, np.float32)
