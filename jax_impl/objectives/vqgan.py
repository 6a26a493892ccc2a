"""Losses of a tokenizer's training (Esser et al. 2021, equations 4 to 7).

Networks are arguments: `distance(x, made)` gives a perceptual distance (B,), `critic(pictures)` logits, high
for real ones. Generator and discriminator are trained by one backward pass over the sum of their losses, for
each sees the other's tensors as constants.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient

from common.hparams.families.vqgan import Loss
from jax_impl.layers.precision import at_least_float32

Distance = Callable[[Array, Array], Array]
Critic = Callable[[Array], Array]
Metrics = dict[str, Array]

LARGEST_WEIGHT = 1e4
EPSILON = 1e-4


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
    """Loss of reconstructions `made` (B, H, W, C) of pictures x, and its parts.

    Without a critic the parts are `reconstruction` and `perceptual`, with one also `generator` and
    `disc_weight`, by which that one counts. `pull_back` takes a gradient with respect to the pictures to one
    with respect to the last layer's kernel, for equation 7. The loss's gradient with respect to `made` is
    computed here, once; what comes back carries it as a constant.
    """
    x, leaf = stop_gradient(x), stop_gradient(made)

    def likelihood(leaf: Array) -> tuple[Array, Metrics]:
        return _likelihood(x, leaf, options, distance)

    (value, metrics), gradient = jax.value_and_grad(likelihood, has_aux=True)(leaf)
    if critic is not None:
        adversarial, of_adversarial = jax.value_and_grad(
            lambda leaf: generator_loss(critic(leaf), options.disc_loss)
        )(leaf)
        weight = jnp.full_like(value, options.disc_weight)
        if options.adaptive_disc_weight and pull_back is not None:
            weight = weight * adaptive_weight(pull_back(gradient), pull_back(of_adversarial))
        gradient, value = gradient + weight * of_adversarial, value + weight * adversarial
        metrics |= {"generator": adversarial, "disc_weight": weight}
    metrics = {name: stop_gradient(metric) for name, metric in metrics.items()}
    return _with_gradient(made, gradient, value), metrics


def discriminator_terms(x: Array, made: Array, options: Loss, critic: Critic) -> tuple[Array, Metrics]:
    """The critic's loss on pictures x and reconstructions of them, (B, H, W, C), each a batch of its own.

    Parts: `discriminator`, without penalties, and the mean logits, `logits_real` and `logits_fake`.
    """
    penalised = options.r1_cost > 0 or options.gradient_penalty > 0
    x = stop_gradient(x)

    def total(x: Array) -> tuple[Array, Array]:
        real = critic(x)
        return real.sum(), real

    (_, real), slope = jax.value_and_grad(total, has_aux=True)(x) if penalised else (total(x), x)
    fake = critic(stop_gradient(made))
    loss = discriminator_loss(real, fake, options.disc_loss)
    metrics = {"discriminator": loss, "logits_real": real.mean(), "logits_fake": fake.mean()}
    if penalised:
        loss = loss + _penalty(slope, options)
    return loss, {name: stop_gradient(value) for name, value in metrics.items()}


def generator_loss(fake: Array, kind: str) -> Array:
    """Mean over the logits of reconstructions: softplus(-logit) for 'non_saturating', else -logit."""
    return (jax.nn.softplus(-fake) if kind == "non_saturating" else -fake).mean()


def discriminator_loss(real: Array, fake: Array, kind: str) -> Array:
    """Mean over logits: half the hinges (Lim and Ye 2017), half the cross-entropies, or these in full."""
    if kind == "hinge":
        return (jax.nn.relu(1 - real).mean() + jax.nn.relu(1 + fake).mean()) / 2
    total = jax.nn.softplus(-real).mean() + jax.nn.softplus(fake).mean()
    return total / 2 if kind == "vanilla" else total


def adaptive_weight(of_likelihood: Array, of_adversarial: Array) -> Array:
    """Equation 7, from the two gradients with respect to the last layer's kernel; clamped."""
    first, second = (jnp.sqrt(jnp.sum(jnp.square(gradient))) for gradient in (of_likelihood, of_adversarial))
    weight = first / (second + EPSILON)
    return stop_gradient(weight.clip(0, LARGEST_WEIGHT))


def perplexity(counts: Array) -> Array:
    """exp(entropy) of the codes' shares, from their counts (K,): between 1 and K."""
    shares = counts / counts.sum()
    return jnp.exp(-jnp.sum(jax.scipy.special.xlogy(shares, shares)))


def _likelihood(x: Array, made: Array, options: Loss, distance: Distance | None) -> tuple[Array, Metrics]:
    """Reconstruction and perceptual loss, 0-d."""
    loss = reconstruction(x, made, options.reconstruction).mean()
    perceptual = jnp.zeros_like(loss)
    if distance is not None:
        perceptual = distance(x, made).mean()
    metrics = {"reconstruction": loss, "perceptual": perceptual}
    return loss + options.perceptual_weight * perceptual, metrics


def _penalty(slope: Array, options: Loss) -> Array:
    """Of the logits' gradient with respect to pictures (B, H, W, C)."""
    squares = jnp.square(slope).sum((1, 2, 3))
    norms = jnp.sqrt(squares + 1e-12)
    return options.r1_cost * squares.mean() + options.gradient_penalty * jnp.square(norms - 1).mean()


def _with_gradient(x: Array, gradient: Array, value: Array) -> Array:
    """A 0-d array of this value whose gradient with respect to x is the given one."""
    product = jnp.sum(x * stop_gradient(gradient))
    return product + stop_gradient(value - product)
