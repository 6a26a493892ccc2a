"""Diagonal Gaussians of a latent group, given by the standard deviation or its logarithm."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dioscuri.families.latent_models.protocols import LatentModel
from torch_impl.layers.precision import at_least_float32

_SOFTPLUS_THRESHOLD = 50
"""Above this, softplus is the identity to float64's resolution; exp(50) is still finite in float32."""


Given = tuple[Tensor | None, Tensor | None, Tensor | float | None, Tensor | None, Tensor | None]
"""A group's prior noise, posterior noise, temperature, latents and mask."""


class Gaussian(NamedTuple):
    """Statistics (B, Z, ...); `scale` is the standard deviation or, with base logstd, its raw logarithm."""

    mean: Tensor
    scale: Tensor


def gaussian(statistics: Tensor, options: LatentModel, base: Gaussian | None = None) -> Gaussian:
    """The Gaussian that a layer's output (B, 2 Z, ...) describes, relative to `base` if given, in at least
    float32."""
    mean, raw = at_least_float32(statistics).chunk(2, 1)
    if options.distribution_base == "logstd":
        return Gaussian(mean, raw) if base is None else Gaussian(mean + base.mean, raw + base.scale)
    # On strided memory softplus is ten times slower than on a copy (CPU, PyTorch 2.13).
    std = softplus(raw.contiguous(memory_format=torch.channels_last), options.gradient_smoothing_beta)
    return Gaussian(mean, std) if base is None else Gaussian(mean + base.mean, std * base.scale)


def softplus(x: Tensor, beta: float) -> Tensor:
    """log(1 + exp(beta x)) / beta; for beta = log 2 it is 1 at 0."""
    return F.softplus(x, beta, _SOFTPLUS_THRESHOLD)


def standard_deviation(scale: Tensor, options: LatentModel) -> Tensor:
    """Standard deviation from the statistic `scale`."""
    return (
        torch.exp(options.gradient_smoothing_beta * scale) if options.distribution_base == "logstd" else scale
    )


def draw(
    gaussian: Gaussian, noise: Tensor, options: LatentModel, temperature: Tensor | float = 1.0
) -> Tensor:
    """Reparametrised sample: mean + temperature std noise."""
    return gaussian.mean + temperature * standard_deviation(gaussian.scale, options) * noise


def choose_latents(
    prior: Gaussian, posterior: Gaussian | None, given: Given, options: LatentModel
) -> tuple[Tensor, dict[str, Tensor]]:
    """Latents (B, Z, ...), and a dict of latents and statistics. Latents come from the posterior if there is
    one, else they are those given, else from the prior; where the mask is 0, from the prior."""
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
