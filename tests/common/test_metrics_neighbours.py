"""Nearest neighbours and their votes."""

import numpy as np
from scipy.spatial.distance import cdist

from common.metrics.neighbours import nearest, voted


def test_nearest_are_those_of_scipy():
    rng = np.random.default_rng(0)
    pictures, train = (rng.integers(0, 256, (n, 30), np.uint8) for n in (9, 50))
    pictures[3] = train[20]
    distances, indices = nearest(pictures, train, k=3, chunk=4)
    every = cdist(pictures / 255, train / 255)
    np.testing.assert_array_equal(indices, np.argsort(every, axis=1)[:, :3])
    np.testing.assert_allclose(distances, np.sort(every, axis=1)[:, :3], rtol=1e-5)
    assert (indices[3, 0], distances[3, 0]) == (20, 0)


def test_the_most_frequent_label_wins_and_the_nearest_breaks_ties():
    labels = np.array([[1, 2, 2], [3, 3, 1], [5, 4, 6], [7, 7, 7]])
    np.testing.assert_array_equal(voted(labels), [2, 3, 5, 7])
