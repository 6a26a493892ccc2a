"""Similarity of examples and their reconstructions, by the measure that suits their kind."""

import numpy as np
from einops import rearrange

from dioscuri.metrics.psnr import psnr
from dioscuri.metrics.ssim import ssim

Array = np.ndarray

NAMES = {1: "psnr", 2: "ssim", 3: "ssim"}
"""Name of the measure by the number of axes: sounds, pictures, clips."""


def similarity_of_finite(first: Array, second: Array, terms: Array) -> Array:
    """`similarity` (B,), but NaN where a loss term (B,) is not finite: `second`
    then holds meaningless levels."""
    alike: Array = similarity(first, second) + np.where(np.isfinite(terms), 0.0, np.nan)
    return alike


def similarity(first: Array, second: Array) -> Array:
    """(B,) for two arrays of stored values of equal shape: `ssim` for pictures (B, H, W, C), its mean over
    frames for clips (B, T, H, W, C), the peak signal-to-noise ratio in decibels for sounds (B, L, C)."""
    if first.ndim == 5:
        frames = ssim(*(rearrange(clips, "b t h w c -> (b t) h w c") for clips in (first, second)))
        mean: Array = frames.reshape(len(first), -1).mean(1)
        return mean
    if first.ndim == 3:
        scale = 255 / np.iinfo(first.dtype).max
        return psnr(first[:, None] * scale, second[:, None] * scale)
    return ssim(first, second)
