"""Noise as an argument: names, kinds and shapes of its arrays, in an order that both twins follow."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class NoiseSpec:
    """One array of noise: standard normal, uniform on [low, high), or, in token samplers only, standard
    Gumbel. `shape` is (B, ...).

    A `generator` is not an array but a `torch.Generator` or a JAX key, for samplers that draw their noise
    step by step because that of all steps would not fit into memory. Its shape is not used.
    """

    name: str
    kind: Literal["normal", "uniform", "gumbel", "generator"]
    shape: tuple[int, ...]
    low: float = 0.0
    high: float = 1.0
