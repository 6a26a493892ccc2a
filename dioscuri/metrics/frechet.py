"""Frechet distance between Gaussians fitted to features (Heusel et al. 2017, equation 6).

It is called FID for features of the Inception network only.
"""

from dataclasses import dataclass

import numpy as np

Array = np.ndarray


@dataclass(frozen=True)
class Moments:
    """Mean (D,) and a factor F (R, D) of the unbiased covariance F^T F, float64."""

    mean: Array
    factor: Array


def moments(features: Array) -> Moments:
    """Of features (N, D); N is 2 or more."""
    N, _ = features.shape
    if N < 2:
        raise ValueError(f"a covariance needs 2 feature vectors or more, not {N}")
    mean = features.mean(0, dtype=np.float64)
    return Moments(mean, np.linalg.qr(features - mean, mode="r") / np.sqrt(N - 1))


def frechet_distance(first: Moments, second: Moments) -> float:
    """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), 0 for equal moments.

    The last trace is the sum of the singular values of F1 F2^T: the covariances are never multiplied, and
    singular ones do no harm.
    """
    difference = first.mean - second.mean
    overlap = np.linalg.svd(first.factor @ second.factor.T, compute_uv=False).sum()
    spread = np.square(first.factor).sum() + np.square(second.factor).sum() - 2 * overlap
    return max(0.0, float(difference @ difference + spread))
