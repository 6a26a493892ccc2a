"""Squared Euclidean distances between feature vectors, in blocks that fit into memory."""

from collections.abc import Iterator

import numpy as np

Array = np.ndarray

BLOCK = 2**24
"""Maximum number of distances in a block, unless a single row has more."""
ROUNDING = 1e-12


def squared_distances(first: Array, second: Array) -> Iterator[tuple[slice, Array]]:
    """Yield blocks of rows of `first` (M, D) and their squared distances to
    `second` (N, D), float64 (rows, N).

    Exact for integers, such as pixels. Rounding errors between equal vectors count as 0.
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
    """Euclidean distances (M, k) of features (M, D) to their k nearest neighbours in the reference (N, D),
    nearest first, and the neighbours' indices (M, k). Ties are in the order of the reference."""
    distances, indices = np.empty((len(features), k)), np.empty((len(features), k), np.int64)
    for rows, squares in squared_distances(features, reference):
        indices[rows] = np.argsort(squares, axis=1, kind="stable")[:, :k]
        distances[rows] = np.sqrt(np.take_along_axis(squares, indices[rows], axis=1))
    return distances, indices
