"""Noise as an argument: names, kinds and shapes of the draws. Their order is part of the twins' contract."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Draw:
    """One array of noise: standard normal, or uniform on [low, high). `shape` is (B, H, W, C)."""

    name: str
    kind: Literal["normal", "uniform"]
    shape: tuple[int, ...]
    low: float = 0.0
    high: float = 1.0
