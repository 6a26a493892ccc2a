"""Diagonal Gaussians of a latent group, with the standard deviation or its logarithm as statistic."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from dioscuri.families.latent_models.protocols import LatentModel
from jax_impl.layers.precision import at_least_float32

Given = tuple[Array | None, Array | None, Array | float | None, Array | None, Array | None]
"""Noise of the prior, noise of the posterior, temperature, latents and mask of a group."""


class Gaussian(NamedTuple):
    """Statistics (B, ..., Z); `scale` is the standard deviation or, with base logstd, the raw log."""

    mean: Array
    scale: Array


def gaussian(statistics: Array, options: LatentModel, base: Gaussian | None = None) -> Gaussian:
    """The Gaussian that a layer's output (B, ..., 2 Z) describes, in at least float32, relative to `base` if
    one is given."""
    mean, raw = jnp.split(at_least_float32(statistics), 2, -1)
    if options.distribution_base == "logstd":
        return Gaussian(mean, raw) if base is None else Gaussian(mean + base.mean, raw + base.scale)
    std = softplus(raw, options.gradient_smoothing_beta)
    return Gaussian(mean, std) if base is None else Gaussian(mean + base.mean, std * base.scale)


def softplus(x: Array, beta: float) -> Array:
    """log(1 + exp(beta x)) / beta, which is 1 at 0 for beta = log 2."""
    return jax.nn.softplus(beta * x) / beta


def standard_deviation(scale: Array, options: LatentModel) -> Array:
    """Standard deviation from the statistic `scale`."""
    return (
        jnp.exp(options.gradient_smoothing_beta * scale) if options.distribution_base == "logstd" else scale
    )


def draw(gaussian: Gaussian, noise: Array, options: LatentModel, temperature: Array | float = 1.0) -> Array:
    """Reparametrised sample: mean + temperature std noise. The statistics themselves are without
    temperature."""
    return gaussian.mean + temperature * standard_deviation(gaussian.scale, options) * noise


def choose_latents(
    prior: Gaussian, posterior: Gaussian | None, given: Given, options: LatentModel
) -> tuple[Array, dict[str, Array]]:
    """Latents (B, ..., Z) and, by name, they and the statistics: from the posterior if there is one, else
    those given, else from the prior; where the mask is 0, from the prior."""
    prior_noise, posterior_noise, temperature, z, mask = given
    chosen = {"prior_mean": prior.mean, "prior_scale": prior.scale}
    if posterior is not None:
        assert posterior_noise is not None
        chosen |= {"posterior_mean": posterior.mean, "posterior_scale": posterior.scale}
        z = draw(posterior, posterior_noise, options)
    if z is None or mask is not None:
        assert prior_noise is not None
        from_prior = draw(prior, prior_noise, options, 1.0 if temperature is None else temperature)
        z = from_prior if z is None or mask is None else mask * z + (1 - mask) * from_prior
    return z, {**chosen, "z": z}
