"""Frechet distance between Gaussians fitted to features (Heusel et al. 2017, equation 6).

It is called FID for features of the Inception network only.
"""

from dataclasses import dataclass

import numpy as np

Array = np.ndarray

_TOLERANCE = 1e-4  # relative to the largest entry: rounding of float32 and of the order of sums


@dataclass(frozen=True)
class Moments:
    """Mean (D,) and a factor F (R, D) of the unbiased covariance F^T F, float64."""

    mean: Array
    factor: Array


def moments(features: Array) -> Moments:
    """Moments of features (N, D); N is 2 or more."""
    N, _ = features.shape
    if N < 2:
        raise ValueError(f"a covariance needs 2 feature vectors or more, not {N}")
    mean = features.mean(0, dtype=np.float64)
    return Moments(mean, np.linalg.qr(features - mean, mode="r") / np.sqrt(N - 1))


def moments_of_covariance(mean: Array, covariance: Array) -> Moments:
    """Moments from a published mean (D,) and covariance (D, D). ValueError if the covariance is not symmetric
    or has clearly negative variances."""
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

    tr((S1 S2)^(1/2)) is the sum of the singular values of F1 F2^T, so the covariances are never
    multiplied and may be singular.
    """
    difference = first.mean - second.mean
    overlap = np.linalg.svd(first.factor @ second.factor.T, compute_uv=False).sum()
    spread = np.square(first.factor).sum() + np.square(second.factor).sum() - 2 * overlap
    return max(0.0, float(difference @ difference + spread))
