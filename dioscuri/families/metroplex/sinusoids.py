"""Fixed sinusoids that encode positions on a grid."""

import numpy as np


def sinusoids(width: int, grid: tuple[int, ...]) -> np.ndarray:
    """Encoding (*grid, width) of a grid with n axes; width is a multiple of 2 n.

    Each axis has d = width / n channels: sines, then cosines, of the position counted from the end, at
    frequencies 10000^(-2m/d).
    """
    n = len(grid)
    d = width // n
    frequencies = 10000.0 ** (-2 * np.arange(d // 2) / d)
    axes_encodings = []
    for axis, length in enumerate(grid):
        phases = (length - 1 - np.arange(length))[:, None] * frequencies  # (length, d / 2)
        table = np.concatenate([np.sin(phases), np.cos(phases)], 1)  # (length, d)
        shape = [1] * n + [d]
        shape[axis] = length
        axes_encodings.append(np.broadcast_to(table.reshape(shape), (*grid, d)))
    return np.concatenate(axes_encodings, -1)
