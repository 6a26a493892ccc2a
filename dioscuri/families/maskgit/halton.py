"""The order in which the Halton sampler writes tokens (Besnier et al. 2025, section 3.3): points of a
low-discrepancy sequence (Halton 1960), so that the tokens of one step lie far apart."""

import numpy as np


def halton_order(side: int) -> np.ndarray:
    """Flat positions (side^2,) of a square grid, ordered by the first point in each.

    Rows follow the van der Corput sequence of base 2, columns that of base 3, both from index 1.
    """
    n_cells, n_points = side**2, 10_000
    while True:
        index = np.arange(1, n_points + 1)
        rows = np.floor(side * van_der_corput(index, 2)).astype(np.int64)
        columns = np.floor(side * van_der_corput(index, 3)).astype(np.int64)
        places, first = np.unique(rows * side + columns, return_index=True)
        if len(places) == n_cells:
            return places[np.argsort(first)]
        n_points *= 2


def van_der_corput(index: np.ndarray, base: int) -> np.ndarray:
    """Integers with their digits mirrored at the radix point: values in [0, 1)."""
    value, scale, rest = np.zeros(index.shape), 1.0, index.copy()
    while rest.any():
        scale /= base
        value += scale * (rest % base)
        rest //= base
    return value
