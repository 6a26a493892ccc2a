"""Fixed sinusoids that tell positions on a square grid."""

import numpy as np


def sinusoids(width: int, side: int) -> np.ndarray:
    """Encoding (side, side, width) of a grid; width is a multiple of 4.

    Half of the channels see the row, half the column, each as sines then cosines of the position counted from
    the end, at frequencies 10000^(-2m/d) of d = width / 2.
    """
    d = width // 2
    frequencies = 10000.0 ** (-2 * np.arange(d // 2) / d)
    phases = (side - 1 - np.arange(side))[:, None] * frequencies  # (side, d / 2)
    table = np.concatenate([np.sin(phases), np.cos(phases)], 1)  # (side, d)
    rows = np.broadcast_to(table[:, None], (side, side, d))
    columns = np.broadcast_to(table[None], (side, side, d))
    return np.concatenate([rows, columns], -1)
