"""What a model must beat: pixel histograms, overall and per class, and distances to the training set.

All functions take flat integer pictures (N, D). Likelihoods are in nats per picture. Counts are smoothed by
adding 1/2 to each level (Krichevsky and Trofimov 1981).
"""

import numpy as np

Array = np.ndarray


def histogram_bound(train: Array, test: Array, n_levels: int) -> float:
    """Mean of -log prod_i p_i(x_i), one histogram per pixel. Pictures (N, D) hold values below `n_levels`."""
    return float(-_log_probability(_histograms(train, n_levels), test).mean())


def class_mixture_bound(train: Array, labels: Array, test: Array, n_levels: int) -> float:
    """Mean of -log sum_c p(c) prod_i p(x_i | c), where p(c) is the frequency of class c; labels are (N,)."""
    terms = [
        np.log(np.mean(labels == c)) + _log_probability(_histograms(train[labels == c], n_levels), test)
        for c in np.unique(labels)
    ]
    return float(-np.logaddexp.reduce(terms, axis=0).mean())


def bernoulli_bound(train: Array, test: Array) -> float:
    """The same for binary test pictures (0 or 1), where p_i is the mean grey value (0 ... 255) of a training
    pixel.

    The grey value is the probability with which training pictures are binarised, so p_i is the histogram of
    infinitely many binarisations.
    """
    return float(-_log_bernoulli(train, test).mean())


def bernoulli_class_mixture_bound(train: Array, labels: Array, test: Array) -> float:
    """Mean of -log sum_c p(c) prod_i p(x_i | c) for binary test and grey training pictures (0 ... 255)."""
    terms = [
        np.log(np.mean(labels == c)) + _log_bernoulli(train[labels == c], test) for c in np.unique(labels)
    ]
    return float(-np.logaddexp.reduce(terms, axis=0).mean())


def nearest_distances(pictures: Array, train: Array, *, chunk: int = 256) -> Array:
    """Euclidean distance (N,) of each picture to the nearest training picture,
    for values scaled to 0 ... 1."""
    train = train.astype(np.float32) / 255
    norms = np.square(train).sum(1)
    nearest = []
    for start in range(0, len(pictures), chunk):
        block = pictures[start : start + chunk].astype(np.float32) / 255
        squares = np.square(block).sum(1)[:, None] - 2 * block @ train.T + norms
        best = squares.argmin(1)
        nearest.append(np.sqrt(np.square(block - train[best]).sum(1)))
    return np.concatenate(nearest)


def _histograms(train: Array, n_levels: int) -> Array:
    """Smoothed log probabilities (D, n_levels)."""
    N, D = train.shape
    flat = train.astype(np.int64) + n_levels * np.arange(D)
    counts = np.bincount(flat.ravel(), minlength=D * n_levels).reshape(D, n_levels)
    smoothed: Array = np.log((counts + 0.5) / (N + 0.5 * n_levels))
    return smoothed


def _log_probability(log_histograms: Array, test: Array) -> Array:
    total: Array = log_histograms[np.arange(test.shape[1]), test].sum(1)
    return total


def _log_bernoulli(train: Array, test: Array) -> Array:
    p = (train.astype(np.float64).sum(0) / 255 + 0.5) / (len(train) + 1)
    total: Array = test @ np.log(p) + (1 - test) @ np.log1p(-p)
    return total
