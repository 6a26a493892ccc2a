"""Quality of reconstructions: known numbers on known pictures, and every picture counts once."""

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio

from dioscuri.families.vqgan.modes.quality import QualitySum
from dioscuri.metrics.psnr import LARGEST, psnr


def pictures(n, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, 12, 12, 3), np.uint8)


def test_psnr_is_that_of_scikit_image():
    first, second = pictures(4), pictures(4, seed=1)
    expected = [peak_signal_noise_ratio(a, b) for a, b in zip(first, second, strict=True)]
    np.testing.assert_allclose(psnr(first, second), expected)


def test_psnr_of_equal_pictures_is_the_largest():
    assert (psnr(pictures(2), pictures(2)) == LARGEST).all()
    with pytest.raises(ValueError, match="two equal"):
        psnr(pictures(2), pictures(3))


def test_repeated_pictures_of_a_batch_do_not_count():
    original, made = pictures(6), pictures(6, seed=1)
    tokens = np.array([[[0, 1]], [[1, 1]], [[2, 2]], [[2, 2]], [[1, 1]], [[3, 3]]])
    outputs = {"image": made, "tokens": tokens, "reconstruction": np.arange(6.0)}
    total = QualitySum(8)
    total.add(original[:4], {name: array[:4] for name, array in outputs.items()}, np.ones(4, bool))
    valid = np.array([True, False])
    total.add(original[4:], {name: array[4:] for name, array in outputs.items()}, valid)
    quality = total.mean()
    assert quality.n == 5
    assert quality.reconstruction == 2.0
    assert quality.perceptual is None
    np.testing.assert_allclose(quality.psnr, psnr(original[:5], made[:5]).mean())
    np.testing.assert_array_equal(quality.counts, [1, 5, 4, 0, 0, 0, 0, 0])
    assert quality.usage == 3 / 8
    shares = np.array([0.1, 0.5, 0.4])
    np.testing.assert_allclose(quality.perplexity, np.prod(shares**-shares))
    assert "38% of 8 codes" in str(quality)
    assert "lpips" not in quality.as_dict()
