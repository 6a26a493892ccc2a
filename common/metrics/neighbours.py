"""Nearest neighbours among flat pictures (N, D), uint8, and what they vote for."""

import numpy as np

Array = np.ndarray


def nearest(pictures: Array, train: Array, *, k: int, chunk: int = 256) -> tuple[Array, Array]:
    """Euclidean distances (N, k) of each picture to its k nearest training pictures, nearest first, values
    being scaled to 0 ... 1; and their indices (N, k). Of equally near ones the first comes first."""
    train = train.astype(np.float32) / 255
    norms = np.square(train).sum(1)
    distances, indices = [], []
    for start in range(0, len(pictures), chunk):
        part = pictures[start : start + chunk].astype(np.float32) / 255
        squares = np.square(part).sum(1)[:, None] - 2 * part @ train.T + norms
        best = np.argsort(squares, axis=1, kind="stable")[:, :k]
        # Anew, since small differences of large squares are inexact.
        distances.append(np.sqrt(np.square(part[:, None] - train[best]).sum(-1)))
        indices.append(best)
    return np.concatenate(distances), np.concatenate(indices)


def voted(labels: Array) -> Array:
    """Most frequent of the labels (N, k) in each row; of equally frequent ones the nearest's, (N,)."""
    votes = (labels[:, :, None] == labels[:, None, :]).sum(-1)
    winners: Array = np.take_along_axis(labels, votes.argmax(1)[:, None], 1)[:, 0]
    return winners
