"""Properties of the likelihoods and of the bound, checked in both twins."""

from dataclasses import replace
from importlib import import_module
from itertools import product

import jax
import numpy as np
import pytest
import scipy.stats
import torch

from dioscuri.families.hierarchical_vae.plan import make_plan
from tests.parity.model_cases import options

TWINS = ["torch", "jax"]


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def call(twin, module, function, arrays, *arguments):
    """A twin's function of arrays, in their dtype."""
    make = torch.from_numpy if twin == "torch" else jax.numpy.asarray
    actual = getattr(import_module(f"{twin}_impl.{module}"), function)(
        *jax.tree.map(make, arrays), *arguments
    )
    return jax.tree.map(np.asarray, actual)


def one_pixel(name, *overrides):
    """Options and plan of pictures of one pixel."""
    chosen = options(name, *overrides)
    return chosen, replace(make_plan(chosen), resolution=1)


def levels(bits):
    """All normalised levels."""
    return (np.arange(2**bits) * 2.0 ** (8 - bits) - 127.5) / 127.5


def log_prob(twin, output, x, plan, chosen):
    return call(twin, "objectives.likelihoods", "mixture_log_prob", (output, x), plan, chosen)


@pytest.mark.parametrize("twin", TWINS)
@pytest.mark.parametrize(
    ("name", "bits"), [("grey", 8), ("grey", 4), ("rgb", 2), ("logstd_residual_exact_bins", 3)]
)
def test_probabilities_of_all_levels_sum_to_one_with_exact_bins(twin, name, bits):
    chosen, plan = one_pixel(name, "loss.exact_bin_width=True", f"data.num_bits={bits}.")
    values = np.array([*product(levels(bits), repeat=plan.channels)])[:, None, None]
    output = np.random.default_rng(0).normal(0, 1, plan.output_channels)
    output = np.broadcast_to(output, (len(values), 1, 1, plan.output_channels)).copy()
    total = np.exp(log_prob(twin, output, values, plan, chosen)).sum()
    assert total == pytest.approx(1, abs=1e-3)  # a tail's mass below 1e-5 is approximate
    chosen = replace(chosen, loss=replace(chosen.loss, exact_bin_width=False))
    wide = np.exp(log_prob(twin, output, values, plan, chosen)).sum()
    assert (wide > 1.005) == (bits < 8)


@pytest.mark.parametrize("twin", TWINS)
@pytest.mark.parametrize("name", ["grey", "rgb", "logstd_residual_exact_bins"])
@pytest.mark.parametrize("spread", [0.3, 3, 12])
def test_float32_likelihood_is_that_of_float64(twin, name, spread):
    chosen, plan = one_pixel(name)
    rng = np.random.default_rng(1)
    output = rng.normal(0, spread, (200, 1, 1, plan.output_channels)).astype(np.float32)
    x = rng.choice(levels(int(chosen.data.num_bits)), (200, 1, 1, plan.channels))
    exact = log_prob(twin, output.astype(np.float64), x, plan, chosen)
    single = log_prob(twin, output, x.astype(np.float32), plan, chosen)
    assert single.dtype == np.float32
    close = np.abs(single - exact) <= 1e-4 * np.maximum(1, np.abs(exact))
    assert close.mean() >= 0.99  # the others lie at 1e-5, the border between mass and density times width


@pytest.mark.parametrize("twin", TWINS)
def test_mixture_is_the_difference_of_logistic_distributions(twin):
    """One component, against scipy's logistic distribution."""
    chosen, plan = one_pixel("grey", "model.num_output_mixtures=1", "data.num_bits=4.")
    x = levels(4)
    mean, raw = 0.1, 0.5
    scale = np.log1p(np.exp(0.6931472 * raw)) / 0.6931472
    output = np.tile(np.array([0.7, mean, raw]), (len(x), 1, 1, 1))
    below = scipy.stats.logistic.cdf(x - 1 / 15, mean, scale)
    above = scipy.stats.logistic.cdf(x + 1 / 15, mean, scale)
    below[0], above[-1] = 0, 1
    actual = log_prob(twin, output, x.reshape(-1, 1, 1, 1), plan, replace(chosen, model=replace(
        chosen.model, output_gradient_smoothing_beta=0.6931472)))  # fmt: skip
    np.testing.assert_allclose(actual, np.log(above - below), rtol=1e-9)


@pytest.mark.parametrize("twin", TWINS)
def test_samples_follow_the_likelihood(twin):
    """Rounded samples of a grey pixel have the probabilities of the likelihood."""
    chosen, plan = one_pixel("grey", "loss.exact_bin_width=True", "data.num_bits=3.")
    rng = np.random.default_rng(2)
    layer = rng.normal(0, 1, plan.output_channels)
    n = 20_000
    noise = {draw.name: rng.uniform(draw.low, draw.high, draw.shape) for draw in plan.output_noise(n)}
    output = np.tile(layer, (n, 1, 1, 1))
    drawn = call(twin, "samplers.ancestral", "read_values", (output, noise), plan, chosen, "sample", 1.0)
    nearest = np.abs(drawn.reshape(-1, 1) - levels(3)).argmin(1)
    expected = np.exp(log_prob(twin, output[:8], levels(3).reshape(-1, 1, 1, 1), plan, chosen))
    np.testing.assert_allclose(np.bincount(nearest, minlength=8) / n, expected, atol=0.015)
    mean = call(twin, "samplers.ancestral", "read_values", (output[:1], noise), plan, chosen, "mean", 1.0)
    assert -1 <= mean.item() <= 1


@pytest.mark.parametrize("twin", TWINS)
def test_bernoulli(twin):
    chosen = options("bernoulli_stride_4")
    plan = make_plan(chosen)
    rng = np.random.default_rng(3)
    output, x = rng.normal(0, 3, (2, 32, 32, 1)), rng.integers(0, 2, (2, 32, 32, 1)).astype(np.float64)
    actual = call(twin, "objectives.likelihoods", "bernoulli_log_prob", (output, x), plan)
    p = 1 / (1 + np.exp(-output))
    expected = np.where(x == 1, np.log(p), np.log1p(-p))[:, 2:30, 2:30].sum((1, 2, 3))
    np.testing.assert_allclose(actual, expected, rtol=1e-10)


@pytest.mark.parametrize("twin", TWINS)
@pytest.mark.parametrize("base", ["std", "logstd"])
def test_divergence_and_log_ratio_of_gaussians(twin, base):
    chosen = options("grey", f"model.distribution_base='{base}'")
    rng = np.random.default_rng(4)
    plan = make_plan(chosen)
    plan = replace(plan, down=plan.down[:1])
    shape = (2, 3, 3, 2)
    means, scales = rng.normal(size=(2, *shape)), rng.uniform(0.5, 2, (2, *shape))
    stds = scales if base == "std" else np.exp(chosen.model.gradient_smoothing_beta * scales)
    aux = {"z.0": rng.normal(size=shape)}
    for i, name in enumerate(("posterior", "prior")):
        aux |= {f"{name}_mean.0": means[i], f"{name}_scale.0": scales[i]}
    q, p = (
        torch.distributions.Normal(torch.from_numpy(m), torch.from_numpy(s))
        for m, s in zip(means, stds, strict=True)
    )
    kl = call(twin, "objectives.elbo", "latent_kl", (aux,), 0, chosen)
    np.testing.assert_allclose(kl, torch.distributions.kl_divergence(q, p).numpy(), rtol=1e-9)
    ratio = call(twin, "objectives.elbo", "log_ratios", (aux,), plan, chosen)
    z = torch.from_numpy(aux["z.0"])
    np.testing.assert_allclose(ratio[:, 0], (q.log_prob(z) - p.log_prob(z)).sum((1, 2, 3)).numpy(), rtol=1e-9)


@pytest.mark.parametrize("twin", TWINS)
@pytest.mark.parametrize("scaled", [True, False])
def test_balanced_loss(twin, scaled):
    chosen = options("rgb", f"loss.scaled_gamma={scaled}")
    plan = make_plan(chosen)
    reconstruction, kl = np.array([10.0, 20.0]), np.array([[1.0, 2, 6], [3, 0, 10]])
    weights = kl.mean(0) / ([plan.latent_dims(group) for group in range(3)] if scaled else 1)
    weights *= 3 / weights.sum()

    def loss(terms, *arguments):
        return call(twin, "objectives.elbo", "training_loss", (terms,), plan, chosen, *arguments)[0]

    for gamma, w in ((1.0, weights), (0.0, np.ones(3))):
        actual = loss((reconstruction, kl), {"beta": 0.5, "gamma": gamma})
        assert actual * plan.image_dims == pytest.approx(15 + 0.5 * (w * kl.mean(0)).sum())
    assert loss((reconstruction, 0 * kl), {"beta": 0.5, "gamma": 1.0}) * plan.image_dims == pytest.approx(15)
