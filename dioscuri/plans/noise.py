"""Noise as an argument: names, kinds and shapes of the draws. Their order is part of the twins' contract."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class NoiseSpec:
    """One array of noise: standard normal, uniform on [low, high), or, in samplers of tokens only, standard
    Gumbel. `shape` is (B, ...).

    A `generator` is no array but what further noise is drawn from, step by step, by samplers whose noise of
    all steps would not fit into memory: a `torch.Generator`, or a key of JAX. Its shape is not used.
    """

    name: str
    kind: Literal["normal", "uniform", "gumbel", "generator"]
    shape: tuple[int, ...]
    low: float = 0.0
    high: float = 1.0
