"""Diagonal Gaussians of a latent group, given by the standard deviation or its logarithm."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dioscuri.families.latent_models.protocols import LatentModel
from torch_impl.layers.precision import at_least_float32

_LEAST_SCALE = 1e-30
"""Of which float32 has a logarithm."""

_SOFTPLUS_THRESHOLD = 50
"""Above this, softplus is the identity to float64's resolution; exp(50) is still finite in float32."""


Factor = Tensor | float | None
Given = tuple[Tensor | None, Tensor | None, Factor, Tensor | None, Tensor | None, Factor]
"""A group's prior noise, posterior noise, temperature, latents, mask and factor of guidance."""


class Gaussian(NamedTuple):
    """Statistics (B, Z, ...); `scale` is the standard deviation or, with base logstd, its raw logarithm."""

    mean: Tensor
    scale: Tensor


class Context(NamedTuple):
    """Features of a top-down block: those that the posterior reads, and those that the prior adds to what
    leaves the block."""

    x: Tensor
    features: Tensor


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


def guided(prior: Gaussian, factor: Tensor | float, options: LatentModel) -> Gaussian:
    """Classifier-free guidance (Ho and Salimans 2022) of a prior (2B, Z, ...), whose first half knows the
    class and whose second half does not, twice.

    The mean is without + factor (with - without), and so is the logarithm of the scale, which never rises
    above that with the class: no factor can blow up a scale.
    """
    logstd = options.distribution_base == "logstd"
    mean, mean_without = prior.mean.chunk(2)
    scale = prior.scale if logstd else torch.log(prior.scale.clamp(min=_LEAST_SCALE))
    log, log_without = scale.chunk(2)
    mean = mean_without + factor * (mean - mean_without)
    log = torch.minimum(log, log_without + factor * (log - log_without))
    scale = log if logstd else torch.exp(log)
    return Gaussian(torch.cat([mean, mean]), torch.cat([scale, scale]))


class LatentGroup(nn.Module):
    """A top-down block in three steps. A decoder, which has no picture, takes the first and the last."""

    options: LatentModel

    def forward(
        self, x: Tensor, activation: Tensor | None, condition: Tensor | None, given: Given
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Features -> features, and the group's statistics and latents.

        Latents come from the posterior if there is an activation of the bottom-up path, else they are
        those given, else from the prior. `condition` (B, E) embeds the classes, if there are any.
        """
        context, prior = self.read_prior(x, condition)
        posterior = None if activation is None else self.read_posterior(context, activation, prior)
        z, intermediates = choose_latents(prior, posterior, given, self.options)
        return self.add_latents(context, z), intermediates

    def read_prior(self, x: Tensor, condition: Tensor | None) -> tuple[Context, Gaussian]:
        """What the other steps need of the features that meet the block, and the prior."""
        raise NotImplementedError

    def read_posterior(self, context: Context, activation: Tensor, prior: Gaussian) -> Gaussian:
        """The posterior."""
        raise NotImplementedError

    def add_latents(self, context: Context, z: Tensor) -> Tensor:
        """Features behind the block."""
        raise NotImplementedError


def choose_latents(
    prior: Gaussian, posterior: Gaussian | None, given: Given, options: LatentModel
) -> tuple[Tensor, dict[str, Tensor]]:
    """Latents (B, Z, ...), and a dict of latents and statistics. Latents come from the posterior if there is
    one, else they are those given, else from the prior; where the mask is 0, from the prior."""
    prior_noise, posterior_noise, temperature, z, mask, guidance = given
    prior = prior if guidance is None else guided(prior, guidance, options)
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


def with_class(x: Tensor, projection: nn.Module | None, condition: Tensor | None) -> Tensor:
    """x (B, C, ...) plus what a block makes of the classes' embeddings (B, E), if there are any."""
    if projection is None:
        return x
    added: Tensor = projection(condition)
    return x + added.reshape(*added.shape, *(1,) * (x.ndim - 2))


def class_condition(embedding: nn.Embedding | None, label: Tensor | None, B: int) -> Tensor | None:
    """Embeddings (B, E) of classes (B,), or of no class, the last row; None for a model without classes."""
    if embedding is None:
        return None
    if label is None:
        label = torch.full((B,), embedding.num_embeddings - 1, device=embedding.weight.device)
    condition: Tensor = embedding(label)
    return condition
