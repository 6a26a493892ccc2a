"""Likelihood, sample and mean of a picture from the output layer.

The likelihood is Bernoulli for binarised pictures, else the discretised mixture of logistics of PixelCNN++
(Salimans et al. 2017, sections 2.1 and 2.2), or absolute errors, which are not a likelihood of levels but a
Laplace density up to a constant. Arrays are NHWC, `output` is (B, H, W, outputs) on the padded grid, and x
comes from `layers.pictures.normalise`. Likelihoods are in nats per picture. Sounds (B, L, C), of up to 16
bits, and clips (B, T, H, W, C) are treated alike.
"""

from collections.abc import Mapping
from math import exp, log
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from dioscuri.families.latent_models.plan import LatentPlan
from dioscuri.families.latent_models.protocols import LatentHParams
from torch_impl.layers.latents import softplus
from torch_impl.layers.pictures import half_range
from torch_impl.layers.precision import at_least_float32

TAIL = log(1e-5)
"""Log mass below which a bin's mass is approximated by density times width, as in PixelCNN++. Used for up to
8 bits only: with 16 bits, most bins are that light, and the exact mass, computed without cancellation, is as
cheap."""


class Mixture(NamedTuple):
    """Logits (B, ..., M) and the components' parameters (B, ..., C, M);
    `coefficients`, if any, couple RGB."""

    logits: Tensor
    means: Tensor
    log_scales: Tensor
    inverse_scales: Tensor
    coefficients: Tensor | None


def log_prob(output: Tensor, x: Tensor, plan: LatentPlan, hparams: LatentHParams) -> Tensor:
    """log p(x) (B,) under the plan's likelihood, or minus the sum of absolute errors."""
    if plan.likelihood == "bernoulli":
        return bernoulli_log_prob(output, x, plan)
    if plan.likelihood == "absolute":
        return -absolute_error(output, x, plan)
    return mixture_log_prob(output, x, plan, hparams)


def mixture_log_prob(output: Tensor, x: Tensor, plan: LatentPlan, hparams: LatentHParams) -> Tensor:
    """log p(x) (B,), the mass of x's bin under the mixture; the bins at both ends are open."""
    mixture, x = mixture_parameters(output, plan, hparams), _crop(at_least_float32(x), plan)[..., None]
    log_scales, inverse = mixture.log_scales, mixture.inverse_scales
    low, high = level_range(hparams)
    half = half_bin_width(hparams)
    centred = x - _coupled_means(mixture, x)  # (B, h, w, C, M)
    middle, width = inverse * centred, inverse * half
    below, above = -softplus(-(middle + width), 1), -softplus(middle - width, 1)
    # sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a)), which does not cancel in float32.
    log_mass = below + above + torch.log(-torch.expm1(-2 * width))
    if hparams.data.depth == 8:
        tail = middle - log_scales - 2 * softplus(middle, 1) + log(2 * half)
        log_mass = torch.where(log_mass > TAIL, log_mass, tail)
    # Not equality: a compiler may turn the normalisation's division into a product.
    margin = level_step(hparams) / 4
    log_mass = torch.where(x < low + margin, below, torch.where(x > high - margin, above, log_mass))
    log_weights = F.log_softmax(mixture.logits, -1)
    log_probability = torch.logsumexp(log_mass.sum(-2) + log_weights, -1)  # (B, h, w)
    return log_probability.sum(_inner(log_probability))


def mixture_sample(
    output: Tensor,
    noise: Mapping[str, Tensor],
    plan: LatentPlan,
    hparams: LatentHParams,
    temperature: Tensor | float,
) -> Tensor:
    """Sample x (B, h, w, C), unrounded, with uniform `mixture` (B, H, W, M) and `logistic` (B, H, W, C)."""
    mixture = mixture_parameters(output, plan, hparams)
    gumbel = -torch.log(-torch.log(_crop(noise["mixture"], plan)))
    component = (mixture.logits / temperature + gumbel).argmax(-1)[..., None, None]  # (B, h, w, 1, 1)
    index = component.expand(*mixture.means.shape[:-1], 1)
    u = _crop(noise["logistic"], plan)
    spread = temperature * (torch.log(u) - torch.log1p(-u))
    x = mixture.means.gather(-1, index)[..., 0] + spread / mixture.inverse_scales.gather(-1, index)[..., 0]
    chosen = None if mixture.coefficients is None else mixture.coefficients.gather(-1, index)
    return _couple(x[..., None], chosen, hparams)[..., 0]


def mixture_mean(
    output: Tensor, plan: LatentPlan, hparams: LatentHParams, temperature: Tensor | float
) -> Tensor:
    """Mean (B, h, w, C) of the components' means, coupled and clamped channel by channel."""
    mixture = mixture_parameters(output, plan, hparams)
    weights = F.softmax(mixture.logits / temperature, -1)[..., None, :]
    return (weights * _couple(mixture.means, mixture.coefficients, hparams)).sum(-1)


def mixture_parameters(output: Tensor, plan: LatentPlan, hparams: LatentHParams) -> Mixture:
    """Read the output layer: M logits, then per channel M means, M scales and, for RGB, M coefficients."""
    output, model = _crop(at_least_float32(output), plan), hparams.model
    logits, rest = output[..., : plan.n_mixtures], output[..., plan.n_mixtures :]
    rest = rearrange(rest, "b ... (c k m) -> k b ... c m", c=plan.channels, m=plan.n_mixtures)
    rest = rest.contiguous()  # softplus and tanh are several times slower on strided memory
    beta, floor = model.output_gradient_smoothing_beta, hparams.loss.min_mol_logscale
    if model.output_distribution_base == "logstd":
        raw = rest[1].clamp(min=floor)
        inverse = torch.exp(-beta * raw)
        log_scales = raw if hparams.loss.legacy_mol_log_scale else beta * raw
    else:
        scales = softplus(rest[1], beta).clamp(min=exp(floor))
        inverse, log_scales = 1 / scales, torch.log(scales)
    return Mixture(
        logits, rest[0], log_scales, inverse, torch.tanh(rest[2]) if plan.couples_channels else None
    )


def absolute_error(output: Tensor, x: Tensor, plan: LatentPlan) -> Tensor:
    """Sum (B,) of a picture's absolute errors, for values in [-1, 1]."""
    error = (_crop(at_least_float32(output), plan) - _crop(x, plan)).abs()
    return error.sum(_inner(error))


def bernoulli_log_prob(output: Tensor, x: Tensor, plan: LatentPlan) -> Tensor:
    """log p(x) (B,) of x in {0, 1}."""
    logits, x = _crop(at_least_float32(output), plan), _crop(x, plan)
    return (logits * x - softplus(logits, 1)).sum(_inner(x))


def bernoulli_sample(
    output: Tensor, noise: Mapping[str, Tensor], plan: LatentPlan, temperature: Tensor | float
) -> Tensor:
    """Sample 0 or 1 (B, h, w, C) with uniform noise `pixel` of that shape."""
    probabilities = bernoulli_mean(output, plan, temperature)
    return (noise["pixel"] < probabilities).to(probabilities.dtype)


def bernoulli_mean(output: Tensor, plan: LatentPlan, temperature: Tensor | float) -> Tensor:
    """Probability of 1, (B, h, w, C)."""
    return torch.sigmoid(_crop(at_least_float32(output), plan) / temperature)


def absolute_mean(output: Tensor, plan: LatentPlan) -> Tensor:
    """The picture (B, h, w, C), clamped to [-1, 1]."""
    return _crop(at_least_float32(output), plan).clamp(-1, 1)


def output_statistics(output: Tensor, plan: LatentPlan, hparams: LatentHParams) -> dict[str, Tensor]:
    """Statistics for histograms: the mixture's `means` and `log_scales`, the Bernoulli `logits`, or the
    `means` for absolute errors."""
    if plan.likelihood == "bernoulli":
        return {"logits": _crop(at_least_float32(output), plan)}
    if plan.likelihood == "absolute":
        return {"means": _crop(at_least_float32(output), plan)}
    mixture = mixture_parameters(output, plan, hparams)
    return {"means": mixture.means, "log_scales": mixture.log_scales}


def level_range(hparams: LatentHParams) -> tuple[float, float]:
    """Lowest and highest normalised level."""
    half = half_range(hparams.data)
    return -1.0, (2 * half + 1 - 2 ** (hparams.data.depth - hparams.data.num_bits) - half) / half


def level_step(hparams: LatentHParams) -> float:
    """Distance between normalised levels."""
    return 2 ** (hparams.data.depth - hparams.data.num_bits) / half_range(hparams.data)


def half_bin_width(hparams: LatentHParams) -> float:
    """Half the width over which the likelihood integrates: that of a level, or the original's larger one."""
    bits, depth = hparams.data.num_bits, hparams.data.depth
    return 2 ** (depth - bits) / (2**depth - 1) if hparams.loss.exact_bin_width else 1 / (2**bits - 1)


def _coupled_means(mixture: Mixture, x: Tensor) -> Tensor:
    """Means given the true values (B, h, w, C, 1) of earlier channels: green sees red, blue sees both."""
    if mixture.coefficients is None:
        return mixture.means
    red, green, blue = mixture.means.unbind(-2)
    c0, c1, c2 = mixture.coefficients.unbind(-2)
    r, g, _ = x.unbind(-2)
    return torch.stack([red, green + c0 * r, blue + c1 * r + c2 * g], -2)


def _couple(x: Tensor, coefficients: Tensor | None, hparams: LatentHParams) -> Tensor:
    """Clamp to the range of levels; with coefficients, earlier channels are first added to each channel."""
    low, high = level_range(hparams)
    if coefficients is None:
        return x.clamp(low, high)
    red, green, blue = x.unbind(-2)
    c0, c1, c2 = coefficients.unbind(-2)
    red = red.clamp(low, high)
    green = (green + c0 * red).clamp(low, high)
    blue = (blue + c1 * red + c2 * green).clamp(low, high)
    return torch.stack([red, green, blue], -2)


def _crop(x: Tensor, plan: LatentPlan) -> Tensor:
    """Remove the padding."""
    c, side = plan.crop, plan.resolution
    return x[:, c : side - c, c : side - c] if c else x


def _inner(x: Tensor) -> tuple[int, ...]:
    """All axes but the batch's."""
    return tuple(range(1, x.ndim))
