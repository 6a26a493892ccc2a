"""Filters of logits, random integers and resized pictures, compared with their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from dioscuri.families.token_models.masking_options import Filters
from jax_impl.models import inception as jax_inception
from jax_impl.samplers import choice as jax_choice
from jax_impl.samplers import noise as jax_noise
from torch_impl.models import inception as torch_inception
from torch_impl.samplers import choice as torch_choice
from torch_impl.samplers import noise as torch_noise


def both(name, logits, limit):
    """The logits after each twin's filter; -inf where a code may not be sampled."""
    yield np.asarray(getattr(jax_choice, name)(jnp.asarray(logits), limit))
    yield getattr(torch_choice, name)(torch.from_numpy(logits), limit).numpy()


def logits_of(K):
    """Flat and peaked distributions, some without codes that another filter removed."""
    generator = np.random.default_rng(K)
    logits = generator.normal(size=(3, 40, K)) * np.array([0.1, 2, 20])[:, None, None]
    logits[:, ::4, 1::2] = -np.inf
    return logits.astype(np.float32)


@pytest.mark.parametrize("p", [1e-3, 0.5, 0.95, 0.9999, 1.0])
@pytest.mark.parametrize("K", [2, 37, 256])
def test_top_p_keeps_a_code_if_the_likelier_ones_make_up_less(K, p):
    logits = logits_of(K)
    shares = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    shares /= shares.sum(-1, keepdims=True)
    above = (shares[..., None, :] * (logits[..., None, :] > logits[..., :, None])).sum(-1)
    certain = np.abs(above - p) > 1e-5  # elsewhere rounding decides
    assert certain.mean() > 0.9 or p in (0.9999, 1.0)
    for actual in both("keep_top_p", logits, p):
        kept = np.isfinite(actual)
        np.testing.assert_array_equal(kept[certain], ((above < p) & np.isfinite(logits))[certain])
        np.testing.assert_array_equal(actual[kept], logits[kept])


def test_top_p_keeps_equals_together():
    logits = np.log(np.array([[0.4, 0.2, 0.2, 0.2]], np.float32))
    for p, count in ((0.3, 1), (0.5, 4)):
        for actual in both("keep_top_p", logits, p):
            assert np.isfinite(actual).sum() == count


@pytest.mark.parametrize("k", [0, 1, 5, 37, 100])
def test_top_k_keeps_the_k_largest(k):
    logits = logits_of(37)[:, 1::4]
    for actual in both("keep_top_k", logits, k):
        kept = np.isfinite(actual)
        assert (kept.sum(-1) == (k if 0 < k < 37 else 37)).all()
        least = np.where(kept, logits, np.inf).min(-1)
        assert (least >= np.where(kept, -np.inf, logits).max(-1)).all()


def test_filters_by_step_are_those_of_each_step():
    """In JAX the step is an array; 0, 1 and values beyond the codes keep all."""
    logits, ks, ps = logits_of(37), (0, 5, 1, 37, 100), (1.0, 0.9, 1.0, 0.2, 0.5)
    options = Filters(top_k=ks, top_p=ps, steps=5)
    of_step = jax.jit(lambda logits, step, ps: jax_choice.filtered(logits, options, step, ps))
    in_jax, in_torch, all_ps = jnp.asarray(logits), torch.from_numpy(logits), np.array(ps, np.float32)
    for step, (k, p) in enumerate(zip(ks, ps, strict=True)):
        made = torch_choice.filtered(in_torch, options, step, torch.from_numpy(all_ps))
        for actual, choice, given in (
            (of_step(in_jax, step, all_ps), jax_choice, in_jax),
            (made, torch_choice, in_torch),
        ):
            expected = choice.keep_top_p(choice.keep_top_k(given, k), p)
            np.testing.assert_array_equal(np.asarray(actual), np.asarray(expected))


@pytest.mark.parametrize("n", [1, 7, 64])
def test_integers_from_uniform_noise(n):
    uniform = np.append((np.arange(n) + 0.5) / n, np.nextafter(np.float32(1), 0)).astype(np.float32)
    expected = [*range(n), n - 1]
    assert torch_noise.whole_numbers_below(torch.from_numpy(uniform), n).tolist() == expected
    assert jax_noise.whole_numbers_below(jnp.asarray(uniform), n).tolist() == expected


def test_pictures_are_resized_alike_for_inception():
    pictures = np.random.default_rng(0).integers(0, 256, (1, 5, 8, 3), np.uint8)
    actual = torch_inception.resized(torch.from_numpy(pictures), torch.float32).permute(0, 2, 3, 1).numpy()
    expected = np.asarray(jax_inception.resized(jnp.asarray(pictures), jnp.float32))
    assert actual.shape == (1, 299, 299, 3)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)
