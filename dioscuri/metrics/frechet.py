"""Frechet distance between Gaussians fitted to features (Heusel et al. 2017, equation 6).

It is called FID for features of the Inception network only.
"""

from dataclasses import dataclass

import numpy as np

Array = np.ndarray

_TOLERANCE = 1e-4  # of the largest entry: what float32 and the order of sums leave


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


def moments_of_covariance(mean: Array, covariance: Array) -> Moments:
    """Of a mean (D,) and a covariance (D, D), as they are published. ValueError where it is not symmetric or
    has clearly negative variances."""
    covariance = covariance.astype(np.float64)
    size = np.abs(covariance).max()
    if np.abs(covariance - covariance.T).max() > _TOLERANCE * size:
        raise ValueError("it is not symmetric")
    values, vectors = np.linalg.eigh(covariance)
    if values[0] < -_TOLERANCE * len(values) * size:
        raise ValueError(f"it has a variance of {values[0]:.3g}")
    return Moments(mean.astype(np.float64), np.sqrt(np.maximum(values, 0))[:, None] * vectors.T)


def frechet_distance(first: Moments, second: Moments) -> float:
    """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), 0 for equal moments.

    The last trace is the sum of the singular values of F1 F2^T: the covariances are never multiplied, and
    singular ones do no harm.
    """
    difference = first.mean - second.mean
    overlap = np.linalg.svd(first.factor @ second.factor.T, compute_uv=False).sum()
    spread = np.square(first.factor).sum() + np.square(second.factor).sum() - 2 * overlap
    return max(0.0, float(difference @ difference + spread))
