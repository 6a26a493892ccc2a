"""The mixture of logistics is a distribution over levels of 8 and of 16 bits, in float32."""

from importlib import import_module

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from tests.parity.metroplex_cases import make
from tests.support.models import TWINS

MAKE = {"torch": torch.from_numpy, "jax": jnp.asarray}
# Mean and log scale of two components of equal weight: in the middle, at the edges, wide, narrow.
MIXTURES = {
    "middle": ((0.1, -4.0), (-0.3, -2.0)),
    "edges": ((-1.2, -3.0), (1.0, -5.0)),
    "wide": ((0.0, 1.5), (0.5, 0.0)),
    "narrow": ((0.25, -20.0), (-0.7, -9.0)),
}


def log_masses(twin, case, mixture, levels, dtype=np.float32, *overrides):
    """log p (N,) of levels (N,) under one mixture."""
    chosen, plan, weights, *_ = make(case, *overrides)
    x = TWINS[twin](chosen, weights).normalise(levels[:, None, None])
    (first, low), (second, high) = MIXTURES[mixture]
    layer = np.array([0, 0, first, second, low, high])
    output = np.broadcast_to(layer, (len(levels), 1, 6)).astype(dtype)
    log_prob = import_module(f"{twin}_impl.objectives.likelihoods").log_prob
    return np.asarray(log_prob(MAKE[twin](output.copy()), MAKE[twin](x.astype(dtype)), plan, chosen))


@pytest.mark.parametrize("twin", TWINS)
@pytest.mark.parametrize("mixture", MIXTURES)
def test_masses_of_all_levels_sum_to_one(twin, mixture):
    eight = log_masses(
        twin, "sound", mixture, np.arange(256, dtype=np.uint8), np.float32, "model.num_mixtures=2"
    )
    sixteen = log_masses(twin, "sound_16_bits_attention", mixture, np.arange(65536, dtype=np.uint16))
    for actual in (eight, sixteen):
        assert np.isfinite(actual).all()
        assert np.exp(actual.astype(np.float64)).sum() == pytest.approx(1, abs=5e-3)


@pytest.mark.parametrize("mixture", MIXTURES)
def test_float32_is_enough_for_16_bits(mixture):
    levels = np.unique(np.concatenate([np.arange(0, 65536, 97), [1, 65534, 65535]])).astype(np.uint16)
    single, double = (
        log_masses("torch", "sound_16_bits_attention", mixture, levels, dtype)
        for dtype in (np.float32, np.float64)
    )
    np.testing.assert_allclose(single, double, rtol=1e-3, atol=2e-2)
    ours, theirs = (log_masses(twin, "sound_16_bits_attention", mixture, levels) for twin in TWINS)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-2)


def test_gradients_of_the_farthest_tails_are_finite():
    chosen, plan, *_ = make("sound_16_bits_attention")
    output = torch.tensor([[[0.0, 0.0, -1.0, 1.0, -30.0, -30.0]]], requires_grad=True)
    likelihoods = import_module("torch_impl.objectives.likelihoods")
    for x in (-1.0, 0.0, 1.0):
        actual = likelihoods.log_prob(output, torch.full((1, 1, 1), x), plan, chosen)
        (gradient,) = torch.autograd.grad(actual.sum(), output)
        assert torch.isfinite(actual).all()
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("twin", TWINS)
def test_levels_survive_the_way_into_the_model_and_back(twin):
    chosen, plan, weights, *_ = make("sound_16_bits_attention")
    levels = np.arange(65536, dtype=np.uint16)[None, :, None]
    x = TWINS[twin](chosen, weights).normalise(levels)
    assert (x.min(), x.max()) == (-1, 1)
    back = import_module(f"{twin}_impl.layers.pictures").to_levels(MAKE[twin](x), plan, chosen)
    np.testing.assert_array_equal(np.asarray(back), levels)
    assert np.asarray(back).dtype == np.uint16
