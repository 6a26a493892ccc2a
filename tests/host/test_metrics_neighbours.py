"""Majority vote of nearest neighbours."""

import numpy as np

from dioscuri.metrics.neighbours import majority_vote


def test_the_most_frequent_label_wins_and_the_nearest_breaks_ties():
    labels = np.array([[1, 2, 2], [3, 3, 1], [5, 4, 6], [7, 7, 7]])
    np.testing.assert_array_equal(majority_vote(labels), [2, 3, 5, 7])
