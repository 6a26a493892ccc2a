"""The baselines agree with a direct computation, and with others' results on the same digits."""

import numpy as np
from sklearn.datasets import load_digits

from dioscuri.metrics.baselines import (
    bernoulli_bound,
    bernoulli_class_mixture_bound,
    class_mixture_bound,
    histogram_bound,
    nearest_distances,
)

RNG = np.random.default_rng(0)


def test_histogram_bound_is_the_smoothed_frequency():
    train = np.array([[0, 2], [1, 2], [1, 0]])
    p = np.array([[1.5, 2.5, 0.5], [1.5, 0.5, 2.5]]) / (3 + 1.5)
    expected = -np.mean([np.log(p[0, 1] * p[1, 1]), np.log(p[0, 2] * p[1, 0])])
    assert np.isclose(histogram_bound(train, np.array([[1, 1], [2, 0]]), 3), expected)


def test_class_mixture_bound_sums_over_classes():
    train, labels = RNG.integers(0, 4, (30, 5)), RNG.integers(0, 3, 30)
    test = RNG.integers(0, 4, (7, 5))
    likelihood = np.zeros(7)
    for c in range(3):
        part = train[labels == c]
        for n, picture in enumerate(test):
            p = [(np.sum(part[:, i] == v) + 0.5) / (len(part) + 2) for i, v in enumerate(picture)]
            likelihood[n] += len(part) / 30 * np.prod(p)
    assert np.isclose(class_mixture_bound(train, labels, test, 4), -np.log(likelihood).mean())


def test_bernoulli_bounds_of_binary_training_pictures_are_histogram_bounds():
    train, labels = RNG.integers(0, 2, (40, 6)), RNG.integers(0, 2, 40)
    test = RNG.integers(0, 2, (9, 6))
    assert np.isclose(bernoulli_bound(train * 255, test), histogram_bound(train, test, 2))
    assert np.isclose(
        bernoulli_class_mixture_bound(train * 255, labels, test), class_mixture_bound(train, labels, test, 2)
    )


def test_known_values_of_the_digits():
    """2.33 and 2.11 bits per dimension were measured elsewhere on a random split of this size."""
    digits = load_digits()
    levels = np.minimum(digits.images, 15).astype(np.int64).reshape(1797, 64)
    test = np.arange(1797) % 6 == 5
    bits = 1 / (64 * np.log(2))
    alone = histogram_bound(levels[~test], levels[test], 16) * bits
    mixture = class_mixture_bound(levels[~test], digits.target[~test], levels[test], 16) * bits
    assert abs(alone - 2.33) < 0.03
    assert abs(mixture - 2.11) < 0.03


def test_nearest_distance_finds_copies_and_measures_others():
    train = RNG.integers(0, 256, (50, 12), dtype=np.uint8)
    pictures = np.concatenate([train[7:8], RNG.integers(0, 256, (5, 12), dtype=np.uint8)])
    actual = nearest_distances(pictures, train, chunk=4)
    differences = pictures[:, None].astype(float) - train.astype(float)
    assert actual[0] == 0
    assert np.allclose(actual, np.sqrt((differences**2).sum(-1)).min(1) / 255, atol=1e-6)
