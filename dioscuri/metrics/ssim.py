"""Structural similarity of pictures (Wang et al. 2004), in the variant of Efficient-VDVAE."""

import numpy as np

WINDOW, SIGMA = 11, 1.5
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def ssim(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Similarity of each pair of pictures: (B, H, W, C) twice -> (B,), 1 for equal pictures.

    Values are 0..255, uint8 or float. The mean is over all pixels and channels, under a Gaussian window of 11
    pixels with zeros outside the picture. Remove padding first: equal padding counts as similarity.
    """
    if first.ndim != 4 or first.shape != second.shape:
        raise ValueError(f"pictures must be two equal (B, H, W, C), not {first.shape}, {second.shape}")
    x, y = first.astype(np.float64), second.astype(np.float64)
    mean_x, mean_y = _blur(x), _blur(y)
    variance_x = _blur(x * x) - mean_x**2
    variance_y = _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1)
    structure = (2 * covariance + _C2) / (variance_x + variance_y + _C2)
    similarity: np.ndarray = (luminance * structure).mean(axis=(1, 2, 3))
    return similarity


def _blur(pictures: np.ndarray) -> np.ndarray:
    from scipy.ndimage import correlate1d  # noqa: PLC0415 - half a second to import, for this measure only

    offsets = np.arange(WINDOW) - WINDOW // 2
    window = np.exp(-0.5 * (offsets / SIGMA) ** 2)
    window /= window.sum()
    for axis in (1, 2):
        pictures = correlate1d(pictures, window, axis=axis, mode="constant")
    return pictures
