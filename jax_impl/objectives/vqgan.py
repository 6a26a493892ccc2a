"""Losses of a tokenizer's training (Esser et al. 2021, equations 4 to 7).

Networks are arguments: `distance(x, made)` returns a perceptual distance (B,), `critic(pictures)` a verdict:
logits of one or more heads, high for real pictures, and embeddings for a contrastive loss. Generator and
discriminator can be trained by one backward pass over the sum of their losses, because each sees the other's
tensors as constants.
"""

from collections.abc import Callable, Mapping
from math import prod
from typing import NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from jax import Array
from jax.lax import stop_gradient
from jax.typing import DTypeLike

from dioscuri.families.vqgan.options import Loss
from jax_impl.layers.precision import at_least_float32

Distance = Callable[[Array, Array], Array]
Metrics = dict[str, Array]
Arrays = Mapping[str, Array]


class Verdict(NamedTuple):
    """Logits of every adversarial head, (B, ...), and embeddings (B, h, w, E) of every contrastive one."""

    logits: tuple[Array, ...]
    embeddings: tuple[Array, ...] = ()


Critic = Callable[[Array], Verdict]

LARGEST_WEIGHT = 1e4
EPSILON = 1e-4
LARGEST_GROUP = 1024
"""Maximum number of positions that are contrasted with each other."""


def reconstruction(x: Array, made: Array, kind: str) -> Array:
    """Mean absolute ('l1') or squared ('l2') difference of pictures (B, H, W, C) -> (B,)."""
    difference = at_least_float32(x) - at_least_float32(made)
    return (jnp.abs(difference) if kind == "l1" else jnp.square(difference)).mean((1, 2, 3))


def generator_terms(
    x: Array,
    made: Array,
    options: Loss,
    distance: Distance | None = None,
    critic: Critic | None = None,
    pull_back: Callable[[Array], Array] | None = None,
) -> tuple[Array, Metrics]:
    """Loss of reconstructions `made` (B, H, W, C) of pictures x, and its terms.

    The terms are `reconstruction` and `perceptual` and, with a critic, `generator`, `contrastive` and their
    weight `disc_weight`. `pull_back` maps a gradient with respect to the pictures to one with respect to the
    last layer's kernel, for equation 7. The loss's gradient with respect to `made` is computed here once, and
    attached to the returned loss as a constant.
    """
    x, leaf = stop_gradient(x), stop_gradient(made)

    def likelihood(leaf: Array) -> tuple[Array, Metrics]:
        return _likelihood(x, leaf, options, distance)

    (value, metrics), gradient = jax.value_and_grad(likelihood, has_aux=True)(leaf)
    if critic is not None:
        (adversarial, terms), of_adversarial = jax.value_and_grad(
            lambda leaf: _adversarial(x, leaf, options, critic), has_aux=True
        )(leaf)
        weight = jnp.full_like(value, options.disc_weight)
        if options.adaptive_disc_weight and pull_back is not None:
            weight = weight * adaptive_weight(pull_back(gradient), pull_back(of_adversarial))
        metrics |= terms | {"disc_weight": weight}
        weight = options.disc_factor * weight
        gradient, value = gradient + weight * of_adversarial, value + weight * adversarial
    metrics = {name: stop_gradient(metric) for name, metric in metrics.items()}
    return _with_gradient(made, gradient, value), metrics


def quantiser_loss(losses: Arrays, entropy_weight: Array | float) -> Array:
    """The sum of a quantiser's losses, with an additional weight of its entropy loss."""
    return losses["quantiser"] + entropy_weight * losses["entropy"]


def discriminator_terms(
    x: Array, made: Array, options: Loss, critic: Critic, averages: tuple[Array, Array] | None = None
) -> tuple[Array, Metrics]:
    """The critic's loss on pictures x and their reconstructions, (B, H, W, C), in separate batches.
    `averages` of the mean logits of both, each (1,), add the LeCam penalty.

    Terms: `discriminator`, without penalties and contrastive loss, the mean logits, `logits_real` and
    `logits_fake`, and the penalty `lecam`.
    """
    penalised = options.r1_cost > 0 or options.gradient_penalty > 0
    x = stop_gradient(x)

    def total(x: Array) -> tuple[Array, Verdict]:
        real = critic(x)
        return _penalised_logits(real, options).sum(), real

    (_, real), slope = jax.value_and_grad(total, has_aux=True)(x) if penalised else (total(x), x)
    fake = critic(stop_gradient(made))
    loss = _mean(
        [
            discriminator_loss(*logits, options.disc_loss)
            for logits in zip(real.logits, fake.logits, strict=True)
        ]
    )
    means = [_mean([logits.mean() for logits in verdict.logits]) for verdict in (real, fake)]
    metrics = {"discriminator": loss, "logits_real": means[0], "logits_fake": means[1]}
    loss = options.disc_factor * loss
    if averages is not None:
        metrics["lecam"] = lecam(means[0], means[1], averages)
        loss = loss + options.lecam_weight * metrics["lecam"]
    if real.embeddings:
        loss = loss + options.contrastive_weight * contrastive_loss(real, fake, patches=options.patch_nce)
    if penalised:
        loss = loss + _penalty(slope, options)
    return loss, {name: stop_gradient(value) for name, value in metrics.items()}


def generator_loss(fake: Array, kind: str) -> Array:
    """Mean over the logits of reconstructions: softplus(-logit) for 'non_saturating', else -logit."""
    return (jax.nn.softplus(-fake) if kind == "non_saturating" else -fake).mean()


def discriminator_loss(real: Array, fake: Array, kind: str) -> Array:
    """Mean over logits of half the hinge losses (Lim and Ye 2017), or of half or
    all of the cross-entropies."""
    if kind == "hinge":
        return (jax.nn.relu(1 - real).mean() + jax.nn.relu(1 + fake).mean()) / 2
    total = jax.nn.softplus(-real).mean() + jax.nn.softplus(fake).mean()
    return total / 2 if kind == "vanilla" else total


def contrastive_loss(real: Verdict, fake: Verdict, *, patches: bool) -> Array:
    """Cross-entropy of matching each embedding of a reconstruction to that of its picture among a group
    (Parmar et al. 2021, equation 5, without temperature), mean over the heads.

    Groups are, with `patches`, consecutive positions of all pictures, at most 1024, else the pictures at a
    position.
    """
    losses = []
    for x, y in zip(real.embeddings, fake.embeddings, strict=True):
        x, y = (_groups(array, patches=patches) for array in (x, y))
        products = jnp.einsum("gie,gje->gij", x, y)
        losses.append(-jnp.diagonal(jax.nn.log_softmax(products, 1), axis1=1, axis2=2).mean())
    return _mean(losses)


def lecam(real: Array, fake: Array, averages: tuple[Array, Array]) -> Array:
    """LeCam penalty (Tseng et al. 2021, equation 5, with hinges): the squared excess of the pictures' mean
    logit (0-d) over the reconstructions' moving average (1,), and of the pictures' average over the
    reconstructions' mean logit."""
    average_real, average_fake = averages
    penalty: Array = (
        jnp.square(jax.nn.relu(real - average_fake)) + jnp.square(jax.nn.relu(average_real - fake))
    ).sum()
    return penalty


def adaptive_weight(of_likelihood: Array, of_adversarial: Array) -> Array:
    """Equation 7, from the two gradients with respect to the last layer's kernel, clamped."""
    first, second = (jnp.sqrt(jnp.sum(jnp.square(gradient))) for gradient in (of_likelihood, of_adversarial))
    weight = first / (second + EPSILON)
    return stop_gradient(weight.clip(0, LARGEST_WEIGHT))


def code_losses(logits: Array, codes: Array) -> Array:
    """Mean cross-entropies (B,) of codes (B, h, w) under logits (B, h, w, K)."""
    log_p = jax.nn.log_softmax(at_least_float32(logits), -1)
    chosen = jnp.take_along_axis(log_p, rearrange(codes, "b h w -> b h w 1"), -1)
    return -chosen.mean((1, 2, 3))


def code_counts(indices: Array, codebook_size: int, dtype: DTypeLike) -> Array:
    """How often each code (K,) occurs in the indices."""
    return jnp.zeros(codebook_size, dtype).at[indices.reshape(-1)].add(1)


def perplexity(counts: Array) -> Array:
    """exp(entropy) of the codes' frequencies, from their counts (K,): between 1 and K."""
    shares = counts / counts.sum()
    return jnp.exp(-jnp.sum(jax.scipy.special.xlogy(shares, shares)))


def _likelihood(x: Array, made: Array, options: Loss, distance: Distance | None) -> tuple[Array, Metrics]:
    """Reconstruction and perceptual loss, 0-d."""
    loss = reconstruction(x, made, options.reconstruction).mean()
    perceptual = jnp.zeros_like(loss)
    if distance is not None:
        perceptual = distance(x, made).mean()
    metrics = {"reconstruction": loss, "perceptual": perceptual}
    return options.reconstruction_weight * loss + options.perceptual_weight * perceptual, metrics


def _adversarial(x: Array, leaf: Array, options: Loss, critic: Critic) -> tuple[Array, Metrics]:
    """The adversarial and contrastive losses of reconstructions, and their terms."""
    verdict = critic(leaf)
    loss = _mean([generator_loss(logits, options.disc_loss) for logits in verdict.logits])
    terms = {"generator": loss}
    if verdict.embeddings:
        terms["contrastive"] = contrastive_loss(critic(x), verdict, patches=options.patch_nce)
        loss = loss + options.contrastive_weight * terms["contrastive"]
    return loss, terms


def _groups(x: Array, *, patches: bool) -> Array:
    """Embeddings (B, h, w, E) -> (groups, members, E)."""
    if not patches:
        return rearrange(x, "b h w e -> (h w) b e")
    n = prod(x.shape[:3])
    size = next(size for size in range(min(LARGEST_GROUP, n), 0, -1) if n % size == 0)
    return rearrange(rearrange(x, "b h w e -> (b h w) e"), "(g n) e -> g n e", n=size)


def _penalised_logits(real: Verdict, options: Loss) -> Array:
    """The logits whose gradient with respect to the pictures is penalised, those of the last head."""
    logits = real.logits[-1]
    return logits[: len(logits) // 2] if options.legacy_half_r1 else logits


def _mean(values: list[Array]) -> Array:
    return jnp.stack(values).mean()


def _penalty(slope: Array, options: Loss) -> Array:
    """Penalty of the logits' gradient with respect to pictures (B, H, W, C)."""
    squares = jnp.square(slope).sum((1, 2, 3))
    norms = jnp.sqrt(squares + 1e-12)
    return options.r1_cost * squares.mean() + options.gradient_penalty * jnp.square(norms - 1).mean()


def _with_gradient(x: Array, gradient: Array, value: Array) -> Array:
    """A 0-d array of this value whose gradient with respect to x is the given one."""
    product = jnp.sum(x * stop_gradient(gradient))
    return product + stop_gradient(value - product)
