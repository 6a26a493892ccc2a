"""Tables of parameters: canonical names, shapes and initial values, the same in both twins.

Shapes are canonical: kernels OIHW, matrices (out, in), image-shaped parameters (1, C, H, W). Each tensor is
drawn from a separate generator, so changing one layer does not change the initial values of the others.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod, sqrt
from typing import Literal
from zlib import crc32

import numpy as np

Kind = Literal[
    "constant", "normal", "truncated_normal", "uniform", "glorot_uniform", "fan_in_uniform", "triangle"
]


@dataclass(frozen=True)
class Init:
    """Initial distribution of a tensor; `value` is the scale of the kind.

    constant: the value; normal, truncated_normal (cut at two standard deviations): the standard deviation;
    uniform: the limit; glorot_uniform (Glorot and Bengio 2010, equation 16): a factor; fan_in_uniform: a
    factor of 1 / sqrt(inputs), PyTorch's default for kernels and their biases; triangle: along the last axis,
    from 0 at the ends to the value in the middle.
    """

    kind: Kind
    value: float = 1.0
    fan_in: int = 0
    """Inputs of the layer, for tensors whose shape does not show it, such as a bias."""
    mean: float = 0.0
    """Added to every value."""


ZEROS, ONES = Init("constant", 0.0), Init("constant", 1.0)


@dataclass(frozen=True)
class Parameter:
    """Canonical shape and initial values of a tensor, and whether weight decay applies to it."""

    shape: tuple[int, ...]
    init: Init
    decays: bool = True


Table = dict[str, Parameter]


def shapes(table: Mapping[str, Parameter]) -> dict[str, tuple[int, ...]]:
    """Canonical shape of every tensor."""
    return {name: parameter.shape for name, parameter in table.items()}


def initial_values(table: Mapping[str, Parameter], seed: int) -> dict[str, np.ndarray]:
    """Initial values, float32, a pure function of table and seed."""
    return {
        name: (parameter.init.mean + _values(name, parameter, seed)).astype(np.float32)
        for name, parameter in table.items()
    }


def _values(name: str, parameter: Parameter, seed: int) -> np.ndarray:
    shape, init = parameter.shape, parameter.init
    if init.kind == "constant" or init.value == 0:
        return np.full(shape, init.value)
    if init.kind == "triangle":
        steps = np.abs(np.linspace(-1, 1, shape[-1])) if shape[-1] > 1 else np.zeros(1)
        return np.broadcast_to(init.value * (1 - steps), shape)
    generator = np.random.default_rng((seed, crc32(name.encode())))
    if init.kind == "normal":
        return generator.normal(0, init.value, shape)
    if init.kind == "truncated_normal":
        return init.value * _truncated(generator, shape)
    limit = init.value * _limit(parameter)
    return generator.uniform(-limit, limit, shape)


def _limit(parameter: Parameter) -> float:
    """Limit of the uniform distribution for a factor of 1."""
    if parameter.init.kind == "uniform":
        return 1.0
    outputs, inputs, *kernel = (*parameter.shape, 1, 1)[: max(2, len(parameter.shape))]
    if parameter.init.kind == "glorot_uniform":
        return sqrt(6 / ((inputs + outputs) * prod(kernel)))
    return 1 / sqrt(parameter.init.fan_in or inputs * prod(kernel))


def _truncated(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal values within two standard deviations; those outside are resampled."""
    values = generator.standard_normal(shape)
    while (outside := np.abs(values) > 2).any():
        values[outside] = generator.standard_normal(int(outside.sum()))
    return values
