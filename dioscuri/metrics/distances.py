"""Squared Euclidean distances between feature vectors, in blocks that fit into memory."""

from collections.abc import Iterator

import numpy as np

Array = np.ndarray

BLOCK = 2**24
"""Distances of a block, at most, unless a single row has more."""
ROUNDING = 1e-12


def squared_distances(first: Array, second: Array) -> Iterator[tuple[slice, Array]]:
    """Rows of `first` (M, D) and their squared distances to `second` (N, D), float64 (rows, N), in turn.

    Exact for whole numbers, such as pixels. What rounding leaves between equal vectors counts as 0.
    """
    second = second.astype(np.float64)
    norms = np.square(second).sum(1)
    size = max(1, BLOCK // len(second))
    for start in range(0, len(first), size):
        rows = slice(start, start + size)
        block = first[rows].astype(np.float64)
        sums = np.square(block).sum(1)[:, None] + norms
        squares = sums - 2 * (block @ second.T)
        yield rows, np.where(squares > ROUNDING * sums, squares, 0.0)


def nearest_neighbours(features: Array, reference: Array, k: int) -> tuple[Array, Array]:
    """Euclidean distances (M, k) of features (M, D) to their k nearest of the reference (N, D), nearest
    first, and indices (M, k) of these. Of equally near ones the first comes first."""
    distances, indices = np.empty((len(features), k)), np.empty((len(features), k), np.int64)
    for rows, squares in squared_distances(features, reference):
        indices[rows] = np.argsort(squares, axis=1, kind="stable")[:, :k]
        distances[rows] = np.sqrt(np.take_along_axis(squares, indices[rows], axis=1))
    return distances, indices
