"""Fidelity and variety of samples, measured separately: improved precision and recall (Kynkaanniemi et al.
2019, equation 2), density and coverage (Naeem et al. 2020, equations 4 and 6).

A set's manifold is the union of closed balls around its vectors, each with the distance to the vector's k-th
nearest neighbour as its radius.
"""

from dataclasses import dataclass

import numpy as np

from dioscuri.metrics.distances import squared_distances

Array = np.ndarray


@dataclass(frozen=True)
class Manifold:
    """Four ratios; all but the density are at most 1."""

    precision: float
    """Fraction of the samples in the manifold of the reference."""
    recall: float
    """Fraction of the reference in the manifold of the samples."""
    density: float
    """Mean number of reference balls that contain a sample, divided by k; 1 is
    expected of equal distributions."""
    coverage: float
    """Fraction of the reference whose ball contains a sample."""


def compare_manifolds(samples: Array, reference: Array, *, k: int = 3) -> Manifold:
    """Compare features (M, D) with a reference (N, D), both with more than k rows."""
    of_samples, of_reference = squared_radii(samples, k), squared_radii(reference, k)
    inside = np.zeros(len(samples), np.int64)
    covered, recalled = np.zeros(len(reference), bool), np.zeros(len(reference), bool)
    for rows, squares in squared_distances(samples, reference):
        within = squares <= of_reference
        inside[rows] = within.sum(1)
        covered |= within.any(0)
        recalled |= (squares <= of_samples[rows, None]).any(0)
    return Manifold(
        precision=float((inside > 0).mean()),
        recall=float(recalled.mean()),
        density=float(inside.mean() / k),
        coverage=float(covered.mean()),
    )


def squared_radii(features: Array, k: int) -> Array:
    """Squared distance (N,) of each of the features (N, D) to its k-th nearest neighbour, N > k."""
    N = len(features)
    if not 1 <= k < N:
        raise ValueError(f"{N} vectors have no {k}-th nearest neighbours")
    radii = np.empty(N)
    for rows, squares in squared_distances(features, features):
        # The nearest vector is the vector itself.
        radii[rows] = np.partition(squares, k, axis=1)[:, k]
    return radii
