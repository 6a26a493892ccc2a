"""What neighbours vote for."""

import numpy as np

Array = np.ndarray


def voted(labels: Array) -> Array:
    """Most frequent of the labels (N, k) in each row; of equally frequent ones the nearest's, (N,)."""
    votes = (labels[:, :, None] == labels[:, None, :]).sum(-1)
    winners: Array = np.take_along_axis(labels, votes.argmax(1)[:, None], 1)[:, 0]
    return winners
