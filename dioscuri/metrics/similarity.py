"""How alike examples and their reconstructions are, by the measure that suits their kind."""

import numpy as np
from einops import rearrange

from dioscuri.metrics.psnr import psnr
from dioscuri.metrics.ssim import ssim

Array = np.ndarray

NAMES = {1: "psnr", 2: "ssim", 3: "ssim"}
"""Of the measure, by the number of axes: sounds, pictures, clips."""


def similarity_of_finite(first: Array, second: Array, terms: Array) -> Array:
    """The same (B,), NaN where a term (B,) is not finite: `second` was cut to levels somehow, and how alike
    these are means nothing."""
    alike: Array = similarity(first, second) + np.where(np.isfinite(terms), 0.0, np.nan)
    return alike


def similarity(first: Array, second: Array) -> Array:
    """(B,) of two equal arrays of stored values: pictures (B, H, W, C) by `ssim`, clips (B, T, H, W, C) by
    its mean over frames, sounds (B, L, C) by the ratio of peak to error in decibels."""
    if first.ndim == 5:
        frames = ssim(*(rearrange(clips, "b t h w c -> (b t) h w c") for clips in (first, second)))
        mean: Array = frames.reshape(len(first), -1).mean(1)
        return mean
    if first.ndim == 3:
        scale = 255 / np.iinfo(first.dtype).max
        return psnr(first[:, None] * scale, second[:, None] * scale)
    return ssim(first, second)
