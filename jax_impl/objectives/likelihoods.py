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

import jax
import jax.numpy as jnp
from einops import rearrange
from jax import Array

from dioscuri.families.latent_models.plan import LatentPlan
from dioscuri.families.latent_models.protocols import LatentHParams
from jax_impl.layers.latents import softplus
from jax_impl.layers.pictures import half_range
from jax_impl.layers.precision import at_least_float32

TAIL = log(1e-5)
"""Log mass below which a bin's mass is approximated by density times width, as in PixelCNN++. Used for up to
8 bits only: with 16 bits, most bins are that light, and the exact mass, computed without cancellation, is as
cheap."""


class Mixture(NamedTuple):
    """Logits (B, ..., M) and the components' parameters (B, ..., C, M);
    `coefficients`, if any, couple RGB."""

    logits: Array
    means: Array
    log_scales: Array
    inverse_scales: Array
    coefficients: Array | None


def log_prob(output: Array, x: Array, plan: LatentPlan, hparams: LatentHParams) -> Array:
    """log p(x) (B,) under the plan's likelihood, or minus the sum of absolute errors."""
    if plan.likelihood == "bernoulli":
        return bernoulli_log_prob(output, x, plan)
    if plan.likelihood == "absolute":
        return -absolute_error(output, x, plan)
    return mixture_log_prob(output, x, plan, hparams)


def mixture_log_prob(output: Array, x: Array, plan: LatentPlan, hparams: LatentHParams) -> Array:
    """log p(x) (B,), the mass of x's bin under the mixture; the bins at both ends are open."""
    mixture, x = mixture_parameters(output, plan, hparams), _crop(at_least_float32(x), plan)[..., None]
    log_scales, inverse = mixture.log_scales, mixture.inverse_scales
    low, high = level_range(hparams)
    half = half_bin_width(hparams)
    centred = x - _coupled_means(mixture, x)  # (B, h, w, C, M)
    middle, width = inverse * centred, inverse * half
    below, above = -softplus(-(middle + width), 1), -softplus(middle - width, 1)
    # sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a)), which does not cancel in float32.
    log_mass = below + above + jnp.log(-jnp.expm1(-2 * width))
    if hparams.data.depth == 8:
        tail = middle - log_scales - 2 * softplus(middle, 1) + log(2 * half)
        log_mass = jnp.where(log_mass > TAIL, log_mass, tail)
    # Not equality: a compiler may turn the normalisation's division into a product.
    margin = level_step(hparams) / 4
    log_mass = jnp.where(x < low + margin, below, jnp.where(x > high - margin, above, log_mass))
    log_weights = jax.nn.log_softmax(mixture.logits, -1)
    log_probability = jax.nn.logsumexp(log_mass.sum(-2) + log_weights, -1)  # (B, h, w)
    return log_probability.sum(_inner(log_probability))


def mixture_sample(
    output: Array,
    noise: Mapping[str, Array],
    plan: LatentPlan,
    hparams: LatentHParams,
    temperature: Array | float,
) -> Array:
    """Sample x (B, h, w, C), unrounded, with uniform `mixture` (B, H, W, M) and `logistic` (B, H, W, C)."""
    mixture = mixture_parameters(output, plan, hparams)
    gumbel = -jnp.log(-jnp.log(_crop(noise["mixture"], plan)))
    component = (mixture.logits / temperature + gumbel).argmax(-1)[..., None, None]  # (B, h, w, 1, 1)
    index = jnp.broadcast_to(component, (*mixture.means.shape[:-1], 1))
    u = _crop(noise["logistic"], plan)
    spread = temperature * (jnp.log(u) - jnp.log1p(-u))
    x = _gather(mixture.means, index)[..., 0] + spread / _gather(mixture.inverse_scales, index)[..., 0]
    chosen = None if mixture.coefficients is None else _gather(mixture.coefficients, index)
    return _couple(x[..., None], chosen, hparams)[..., 0]


def mixture_mean(
    output: Array, plan: LatentPlan, hparams: LatentHParams, temperature: Array | float
) -> Array:
    """Mean (B, h, w, C) of the components' means, coupled and clamped channel by channel."""
    mixture = mixture_parameters(output, plan, hparams)
    weights = jax.nn.softmax(mixture.logits / temperature, -1)[..., None, :]
    return (weights * _couple(mixture.means, mixture.coefficients, hparams)).sum(-1)


def mixture_parameters(output: Array, plan: LatentPlan, hparams: LatentHParams) -> Mixture:
    """Read the output layer: M logits, then per channel M means, M scales and, for RGB, M coefficients."""
    output, model = _crop(at_least_float32(output), plan), hparams.model
    logits, rest = output[..., : plan.n_mixtures], output[..., plan.n_mixtures :]
    rest = rearrange(rest, "b ... (c k m) -> k b ... c m", c=plan.channels, m=plan.n_mixtures)
    beta, floor = model.output_gradient_smoothing_beta, hparams.loss.min_mol_logscale
    if model.output_distribution_base == "logstd":
        raw = jnp.maximum(rest[1], floor)
        inverse = jnp.exp(-beta * raw)
        log_scales = raw if hparams.loss.legacy_mol_log_scale else beta * raw
    else:
        scales = jnp.maximum(softplus(rest[1], beta), exp(floor))
        inverse, log_scales = 1 / scales, jnp.log(scales)
    coefficients = jnp.tanh(rest[2]) if plan.couples_channels else None
    return Mixture(logits, rest[0], log_scales, inverse, coefficients)


def absolute_error(output: Array, x: Array, plan: LatentPlan) -> Array:
    """Sum (B,) of a picture's absolute errors, for values in [-1, 1]."""
    error = jnp.abs(_crop(at_least_float32(output), plan) - _crop(x, plan))
    return error.sum(_inner(error))


def bernoulli_log_prob(output: Array, x: Array, plan: LatentPlan) -> Array:
    """log p(x) (B,) of x in {0, 1}."""
    logits, x = _crop(at_least_float32(output), plan), _crop(x, plan)
    return (logits * x - softplus(logits, 1)).sum(_inner(x))


def bernoulli_sample(
    output: Array, noise: Mapping[str, Array], plan: LatentPlan, temperature: Array | float
) -> Array:
    """Sample 0 or 1 (B, h, w, C) with uniform noise `pixel` of that shape."""
    probabilities = bernoulli_mean(output, plan, temperature)
    return (noise["pixel"] < probabilities).astype(probabilities.dtype)


def bernoulli_mean(output: Array, plan: LatentPlan, temperature: Array | float) -> Array:
    """Probability of 1, (B, h, w, C)."""
    return jax.nn.sigmoid(_crop(at_least_float32(output), plan) / temperature)


def absolute_mean(output: Array, plan: LatentPlan) -> Array:
    """The picture (B, h, w, C), clamped to [-1, 1]."""
    return jnp.clip(_crop(at_least_float32(output), plan), -1, 1)


def output_statistics(output: Array, plan: LatentPlan, hparams: LatentHParams) -> dict[str, Array]:
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


def _coupled_means(mixture: Mixture, x: Array) -> Array:
    """Means given the true values (B, h, w, C, 1) of earlier channels: green sees red, blue sees both."""
    if mixture.coefficients is None:
        return mixture.means
    red, green, blue = jnp.unstack(mixture.means, axis=-2)
    c0, c1, c2 = jnp.unstack(mixture.coefficients, axis=-2)
    r, g, _ = jnp.unstack(x, axis=-2)
    return jnp.stack([red, green + c0 * r, blue + c1 * r + c2 * g], -2)


def _couple(x: Array, coefficients: Array | None, hparams: LatentHParams) -> Array:
    """Clamp to the range of levels; with coefficients, earlier channels are first added to each channel."""
    low, high = level_range(hparams)
    if coefficients is None:
        return jnp.clip(x, low, high)
    red, green, blue = jnp.unstack(x, axis=-2)
    c0, c1, c2 = jnp.unstack(coefficients, axis=-2)
    red = jnp.clip(red, low, high)
    green = jnp.clip(green + c0 * red, low, high)
    blue = jnp.clip(blue + c1 * red + c2 * green, low, high)
    return jnp.stack([red, green, blue], -2)


def _gather(values: Array, index: Array) -> Array:
    return jnp.take_along_axis(values, index, -1)


def _crop(x: Array, plan: LatentPlan) -> Array:
    """Remove the padding."""
    c, side = plan.crop, plan.resolution
    return x[:, c : side - c, c : side - c] if c else x


def _inner(x: Array) -> tuple[int, ...]:
    """All axes but the batch's."""
    return tuple(range(1, x.ndim))
