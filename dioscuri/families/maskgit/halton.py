"""The order in which the Halton sampler writes tokens (Besnier et al. 2025, section 3.3): points of a
low-discrepancy sequence (Halton 1960), so that the tokens of one step lie far apart."""

from math import prod

import numpy as np

BASES = (2, 3)


def halton_order(shape: tuple[int, ...]) -> np.ndarray:
    """Flat positions of a grid (rows, columns) or of a sequence (L,), ordered by the first point in each.

    Rows and the sequence follow the van der Corput sequence of base 2, columns that of base 3, both from
    index 1.
    """
    n_cells, n_points = prod(shape), 10_000
    while True:
        index = np.arange(1, n_points + 1)
        cells = np.zeros(n_points, np.int64)
        for side, base in zip(shape, BASES, strict=False):
            cells = cells * side + np.floor(side * van_der_corput(index, base)).astype(np.int64)
        places, first = np.unique(cells, return_index=True)
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
