"""Structural similarity equals that of both original programs."""

from pathlib import Path

import numpy as np
import pytest
from skimage.metrics import structural_similarity

from dioscuri.metrics.ssim import ssim

CASES = Path(__file__).parents[1] / "golden" / "cases" / "hierarchical_vae"


def pixels(array):
    return array.astype(np.float64) * 127.5 + 127.5


@pytest.mark.parametrize("case", ["torch_mol8", "torch_logstd5"])
def test_values_of_the_torch_program_which_does_not_round(case):
    inputs, outputs = np.load(CASES / case / "inputs.npz"), np.load(CASES / case / "outputs.npz")
    pictures = {name: pixels(inputs[name]).transpose(0, 2, 3, 1) for name in ("x_0", "x_1", "x_3")}
    masked = pixels(outputs["masked_outputs"]).transpose(0, 2, 3, 1)
    assert ssim(pictures["x_0"], pictures["x_1"]).mean() == pytest.approx(outputs["ssim_x0_x1"], rel=2e-6)
    assert ssim(pictures["x_3"], masked).mean() == pytest.approx(outputs["ssim_x4_masked"], rel=2e-6)


def test_value_of_the_jax_program_which_rounds():
    inputs, outputs = np.load(CASES / "jax_mol8" / "inputs.npz"), np.load(CASES / "jax_mol8" / "outputs.npz")
    first, second = (np.round(pixels(inputs[name])).astype(np.uint8) for name in ("x_0", "x_1"))
    assert ssim(first, second).mean() == pytest.approx(outputs["ssim_x0_x1"], rel=2e-6)


def test_every_picture_has_its_own_value():
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (3, 16, 16, 1), np.uint8)
    others = pictures.copy()
    others[1] = rng.integers(0, 256, (16, 16, 1), np.uint8)
    values = ssim(pictures, others)
    np.testing.assert_allclose(values[[0, 2]], 1, rtol=1e-12)
    assert values[1] < 0.5
    np.testing.assert_array_equal(ssim(pictures[1:2], others[1:2]), values[1:2])
    with pytest.raises(ValueError, match="must be two equal"):
        ssim(pictures, others[:2])


def test_another_implementation_agrees_inside_a_black_frame():
    """With a border as wide as the window, zero padding and reflection are the same."""
    rng = np.random.default_rng(1)
    first, second = (np.pad(rng.uniform(0, 255, (20, 20)), 12) for _ in range(2))
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
    _, theirs = structural_similarity(first, second, full=True, **options)
    ours = ssim(first[None, :, :, None], second[None, :, :, None])
    np.testing.assert_allclose(ours, theirs.mean(), rtol=1e-9)
