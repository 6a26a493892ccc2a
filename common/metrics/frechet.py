"""Frechet distance between Gaussians fitted to features (Heusel et al. 2017, equation 6).

It is called FID for features of the Inception network only.
"""

from dataclasses import dataclass

import numpy as np

Array = np.ndarray


@dataclass(frozen=True)
class Moments:
    """Mean (D,) and unbiased covariance (D, D) of n feature vectors, float64."""

    n: int
    mean: Array
    covariance: Array


def moments(features: Array) -> Moments:
    """Of features (N, D); N is 2 or more."""
    N, _ = features.shape
    if N < 2:
        raise ValueError(f"a covariance needs 2 feature vectors or more, not {N}")
    mean = features.mean(0, dtype=np.float64)
    centred = features - mean
    return Moments(N, mean, centred.T @ centred / (N - 1))


def frechet_distance(first: Moments, second: Moments) -> float:
    """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), 0 for equal moments.

    The last trace is the sum of the singular values of S1^(1/2) S2^(1/2): they need no square root of a
    product that is not symmetric, and singular covariances do no harm.
    """
    difference = first.mean - second.mean
    product = _root(first.covariance) @ _root(second.covariance)
    overlap = np.linalg.svd(product, compute_uv=False).sum()
    spread = np.trace(first.covariance) + np.trace(second.covariance) - 2 * overlap
    return max(0.0, float(difference @ difference + spread))


def _root(covariance: Array) -> Array:
    """Symmetric square root; negative eigenvalues, which rounding leaves, count as 0."""
    values, vectors = np.linalg.eigh(covariance)
    root: Array = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    return root
