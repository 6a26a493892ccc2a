"""Metrics of feature arrays compared with closed forms, brute force, and results of torch-fidelity 0.4.0
(prdc 0.2 for density and coverage) for the same random features."""

from itertools import combinations

import numpy as np
import pytest
from scipy.linalg import sqrtm
from scipy.spatial.distance import cdist

from dioscuri.metrics import distances
from dioscuri.metrics.distances import nearest_neighbours, squared_distances
from dioscuri.metrics.frechet import Moments, frechet_distance, moments
from dioscuri.metrics.inception_score import inception_score
from dioscuri.metrics.kernel import cubic_kernel, kernel_distance, squared_discrepancy
from dioscuri.metrics.manifold import compare_manifolds, squared_radii


@pytest.fixture(scope="module")
def features():
    """Two sets of different sizes and shapes, and logits."""
    random = np.random.default_rng(2020)
    mixing = random.normal(size=(12, 12))
    first = random.normal(size=(300, 12)) @ mixing + 0.3
    second = random.standard_t(5, size=(250, 12)) @ mixing
    return first, second, random.normal(size=(205, 7)) * 2


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(distances, "BLOCK", 1000)


def test_numbers_of_torch_fidelity(features, small_blocks):
    first, second, logits = features
    actual = frechet_distance(moments(first), moments(second))
    np.testing.assert_allclose(actual, 18.799502072867938, rtol=1e-10)
    np.testing.assert_allclose(squared_discrepancy(first[:250], second), 38.09091104111087, rtol=1e-12)
    expected = (2.1498016286058785, 0.20692999160520087)
    np.testing.assert_allclose(inception_score(logits, splits=10, seed=None), expected, rtol=1e-12)
    for k, numbers in {
        3: (0.9733333333333334, 0.712, 1.393333333333333, 0.896),
        5: (0.99, 0.776, 1.4286666666666668, 0.992),
    }.items():
        actual = compare_manifolds(first, second, k=k)
        ratios = (actual.precision, actual.recall, actual.density, actual.coverage)
        np.testing.assert_allclose(ratios, numbers, rtol=1e-12)


def test_the_inception_score_does_not_see_what_all_logits_of_a_row_share(features):
    logits = np.round(features[2] * 1024) / 1024
    np.testing.assert_allclose(inception_score(logits + 2.0**30), inception_score(logits), rtol=1e-12)


def test_frechet_distance_of_gaussians_that_commute():
    """With diagonal covariances it is |m1 - m2|^2 + sum (s1 - s2)^2."""
    random = np.random.default_rng(1)
    means, deviations = random.normal(size=(2, 9)), random.uniform(0, 3, (2, 9))
    first, second = (Moments(m, np.diag(s)) for m, s in zip(means, deviations, strict=True))
    expected = np.square(means[0] - means[1]).sum() + np.square(deviations[0] - deviations[1]).sum()
    np.testing.assert_allclose(frechet_distance(first, second), expected, rtol=1e-12)


def test_frechet_distance_by_the_square_root_of_a_matrix(features):
    first, second = features[:2]
    covariances = [np.cov(part, rowvar=False) for part in (first, second)]
    product = sqrtm(covariances[0] @ covariances[1]).real
    shift = np.square(first.mean(0) - second.mean(0)).sum()
    expected = shift + np.trace(sum(covariances) - 2 * product)
    np.testing.assert_allclose(frechet_distance(moments(first), moments(second)), expected, rtol=1e-9)


def test_frechet_distance_of_fewer_vectors_than_dimensions():
    """Singular covariances: with one direction each, the overlap is the product of lengths and cosine."""
    random = np.random.default_rng(2)
    a, b = random.normal(size=(2, 40))
    first, second = (moments(np.outer([-1.0, 0, 1], direction)) for direction in (a, b))
    expected = a @ a + b @ b - 2 * abs(a @ b)
    np.testing.assert_allclose(frechet_distance(first, second), expected, rtol=1e-7)


def test_frechet_distance_of_equal_sets_is_zero_and_of_shifted_ones_the_shift(features):
    first = features[0]
    assert frechet_distance(moments(first), moments(first[::-1])) < 1e-9
    np.testing.assert_allclose(frechet_distance(moments(first), moments(first + 2)), 12 * 4, rtol=1e-9)


def test_float32_features_lose_nothing():
    """Moments are taken in float64: a mean far from 0 leaves the covariance exact."""
    narrow = (np.random.default_rng(3).normal(size=(500, 3)) + 1000).astype(np.float32)
    factor, exact = moments(narrow).factor, np.cov(narrow.astype(np.float64), rowvar=False)
    np.testing.assert_allclose(factor.T @ factor, exact, rtol=1e-10)


def test_squared_discrepancy_by_loops():
    random = np.random.default_rng(4)
    x, y = random.normal(size=(5, 3)), random.normal(size=(4, 3)) + 1
    kernel = lambda a, b: (a @ b / 3 + 1) ** 3  # noqa: E731
    within = [np.mean([kernel(a, b) for a, b in combinations(part, 2)]) for part in (x, y)]
    across = np.mean([kernel(a, b) for a in x for b in y])
    np.testing.assert_allclose(squared_discrepancy(x, y), sum(within) - 2 * across, rtol=1e-12)
    assert cubic_kernel(x, y).shape == (5, 4)


def test_kernel_distance_is_zero_in_the_mean_for_one_distribution():
    random = np.random.default_rng(5)
    x, y = random.normal(size=(2, 2000, 8))
    mean, deviation = kernel_distance(x, y, subsets=40, subset_size=200)
    assert abs(mean) < 3 * deviation / np.sqrt(40)
    assert kernel_distance(x, y + 0.5, subsets=5, subset_size=200)[0] > 10 * deviation


def test_kernel_distance_of_whole_sets_does_not_depend_on_the_seed(features):
    first, second = (part[:250] for part in features[:2])
    for seed in (0, 1):
        mean, deviation = kernel_distance(first, second, subsets=3, subset_size=250, seed=seed)
        np.testing.assert_allclose(mean, squared_discrepancy(first, second), rtol=1e-10)
        assert deviation < 1e-9
    one = kernel_distance(first, second, subsets=3, subset_size=50, seed=0)
    assert one == kernel_distance(first, second, subsets=3, subset_size=50, seed=0)
    assert one != kernel_distance(first, second, subsets=3, subset_size=50, seed=1)


def test_inception_score_between_its_bounds():
    """1 if all rows are equal, K if each class is certain equally often."""
    K = 5
    sure = np.tile(1e4 * np.eye(K), (20, 1))
    np.testing.assert_allclose(inception_score(sure, splits=4, seed=None), (K, 0), atol=1e-12)
    np.testing.assert_allclose(inception_score(np.ones((20, K)), splits=4), (1, 0), atol=1e-12)
    one_class = np.repeat(1e4 * np.eye(K)[:1], 20, axis=0)
    np.testing.assert_allclose(inception_score(one_class, splits=2), (1, 0), atol=1e-12)


def test_inception_score_by_its_formula(features):
    p = np.exp(features[2]) / np.exp(features[2]).sum(1, keepdims=True)
    divergence = (p * np.log(p / p.mean(0))).sum(1)
    actual, deviation = inception_score(features[2], splits=1, seed=7)
    np.testing.assert_allclose((actual, deviation), (np.exp(divergence.mean()), 0), rtol=1e-12)


def test_manifolds_by_brute_force(small_blocks):
    """On a small grid of integers, where vectors coincide and lie on surfaces."""
    random = np.random.default_rng(6)
    samples, reference = random.integers(0, 4, (70, 3)), random.integers(0, 5, (60, 3))
    for k in (1, 3, 5):
        radii = [np.sort(cdist(part, part), axis=1)[:, k] for part in (samples, reference)]
        every = cdist(samples, reference)
        # Distances are roots of integers: the closest two differ by more than this.
        near = 1e-9
        in_reference, in_samples = every <= radii[1] + near, every <= radii[0][:, None] + near
        actual = compare_manifolds(samples, reference, k=k)
        assert actual.precision == in_reference.any(1).mean()
        assert actual.recall == in_samples.any(0).mean()
        np.testing.assert_allclose(actual.density, in_reference.sum() / (k * 70), rtol=1e-12)
        assert actual.coverage == in_reference.any(0).mean()


def test_manifolds_tell_fidelity_from_variety():
    """Samples of one of two distant clusters are precise with recall 1/2; samples elsewhere have neither."""
    random = np.random.default_rng(7)
    near, far = random.normal(size=(2, 400, 4))
    reference = np.concatenate([near[:200], far[:200] + 100])
    half = compare_manifolds(near[200:], reference, k=3)
    assert half.precision > 0.85
    assert 0.4 < half.recall <= 0.5
    assert half.coverage <= 0.5
    nowhere = compare_manifolds(near - 1000, reference, k=3)
    assert (nowhere.precision, nowhere.recall, nowhere.density, nowhere.coverage) == (0, 0, 0, 0)


def test_copies_of_the_reference_are_in_its_manifold():
    reference = np.random.default_rng(8).normal(size=(50, 6)) + 30
    repeated = np.repeat(reference, 5, axis=0)
    actual = compare_manifolds(repeated, repeated, k=3)
    assert (actual.precision, actual.recall, actual.coverage) == (1, 1, 1)
    assert (squared_radii(repeated, 3) == 0).all()


def test_distances_and_neighbours_are_those_of_scipy(features, small_blocks):
    first, second, _ = features
    every = cdist(first, second)
    blocks = list(squared_distances(first, second))
    assert len(blocks) > 10
    np.testing.assert_allclose(np.concatenate([block for _, block in blocks]), every**2, rtol=1e-10)
    actual, indices = nearest_neighbours(first, second, 4)
    np.testing.assert_array_equal(indices, np.argsort(every, axis=1)[:, :4])
    np.testing.assert_allclose(actual, np.sort(every, axis=1)[:, :4], rtol=1e-10)


@pytest.mark.parametrize(
    "call",
    [
        lambda x: moments(x[:1]),
        lambda x: kernel_distance(x, x, subset_size=11),
        lambda x: kernel_distance(x, x, subset_size=1),
        lambda x: inception_score(x, splits=11),
        lambda x: squared_radii(x, 10),
        lambda x: squared_radii(x, 0),
    ],
)
def test_too_few_vectors_are_refused(call):
    with pytest.raises(ValueError, match=r"fit|needs|have no"):
        call(np.zeros((10, 2)))
