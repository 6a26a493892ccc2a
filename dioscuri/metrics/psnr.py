"""Peak signal-to-noise ratio of pictures."""

import numpy as np

LARGEST = 100.0
"""Decibels assigned to equal pictures, whose ratio is infinite."""


def psnr(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """20 log10(255 / root mean squared difference) of each pair: (B, H, W, C) twice, 0..255 -> (B,)."""
    if first.ndim != 4 or first.shape != second.shape:
        raise ValueError(f"pictures must be two equal (B, H, W, C), not {first.shape}, {second.shape}")
    squares = np.square(first.astype(np.float64) - second.astype(np.float64)).mean((1, 2, 3))
    ratio: np.ndarray = np.minimum(-10 * np.log10(np.maximum(squares / 255**2, 1e-30)), LARGEST)
    return ratio
