"""Losses of a tokenizer's training (Esser et al. 2021, equations 4 to 7).

Networks are arguments: `distance(x, made)` gives a perceptual distance (B,), `critic(pictures)` logits, high
for real ones. Generator and discriminator are trained by one backward pass over the sum of their losses, for
each sees the other's tensors as constants.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from common.hparams.families.vqgan import Loss
from torch_impl.layers.precision import at_least_float32

Distance = Callable[[Tensor, Tensor], Tensor]
Critic = Callable[[Tensor], Tensor]
Metrics = dict[str, Tensor]

LARGEST_WEIGHT = 1e4
EPSILON = 1e-4
_SOFTPLUS_THRESHOLD = 50
"""Where softplus becomes the identity: beyond float64's resolution, and exp(50) is finite in float32."""


def reconstruction(x: Tensor, made: Tensor, kind: str) -> Tensor:
    """Mean absolute ('l1') or squared ('l2') difference of pictures (B, H, W, C) -> (B,)."""
    difference = at_least_float32(x) - at_least_float32(made)
    return (difference.abs() if kind == "l1" else difference.square()).mean((1, 2, 3))


def generator_terms(
    x: Tensor,
    made: Tensor,
    options: Loss,
    distance: Distance | None = None,
    critic: Critic | None = None,
    pull_back: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Metrics]:
    """Loss of reconstructions `made` (B, H, W, C) of pictures x, and its parts.

    Without a critic the parts are `reconstruction` and `perceptual`, with one also `generator` and
    `disc_weight`, by which that one counts. `pull_back` takes a gradient with respect to the pictures to one
    with respect to the last layer's kernel, for equation 7. The loss's gradient with respect to `made` is
    computed here, once; what comes back carries it as a constant.
    """
    x, leaf = x.detach(), made.detach().requires_grad_()
    likelihood, metrics = _likelihood(x, leaf, options, distance)
    (gradient,) = torch.autograd.grad(likelihood, leaf)
    value = likelihood.detach()
    if critic is not None:
        adversarial = generator_loss(critic(leaf), options.disc_loss)
        (of_adversarial,) = torch.autograd.grad(adversarial, leaf)
        weight = torch.full_like(value, options.disc_weight)
        if options.adaptive_disc_weight and pull_back is not None:
            weight = weight * adaptive_weight(pull_back(gradient), pull_back(of_adversarial))
        gradient, value = gradient + weight * of_adversarial, value + weight * adversarial.detach()
        metrics |= {"generator": adversarial.detach(), "disc_weight": weight}
    return _with_gradient(made, gradient, value), metrics


def discriminator_terms(x: Tensor, made: Tensor, options: Loss, critic: Critic) -> tuple[Tensor, Metrics]:
    """The critic's loss on pictures x and reconstructions of them, (B, H, W, C), each a batch of its own.

    Parts: `discriminator`, without penalties, and the mean logits, `logits_real` and `logits_fake`.
    """
    penalised = options.r1_cost > 0 or options.gradient_penalty > 0
    x = x.detach().requires_grad_(penalised)
    real, fake = critic(x), critic(made.detach())
    loss = discriminator_loss(real, fake, options.disc_loss)
    metrics = {"discriminator": loss, "logits_real": real.mean(), "logits_fake": fake.mean()}
    if penalised:
        (slope,) = torch.autograd.grad(real.sum(), x, create_graph=True)
        loss = loss + _penalty(slope, options)
    return loss, {name: value.detach() for name, value in metrics.items()}


def generator_loss(fake: Tensor, kind: str) -> Tensor:
    """Mean over the logits of reconstructions: softplus(-logit) for 'non_saturating', else -logit."""
    return (_softplus(-fake) if kind == "non_saturating" else -fake).mean()


def discriminator_loss(real: Tensor, fake: Tensor, kind: str) -> Tensor:
    """Mean over logits: half the hinges (Lim and Ye 2017), half the cross-entropies, or these in full."""
    if kind == "hinge":
        return (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2
    total = _softplus(-real).mean() + _softplus(fake).mean()
    return total / 2 if kind == "vanilla" else total


def adaptive_weight(of_likelihood: Tensor, of_adversarial: Tensor) -> Tensor:
    """Equation 7, from the two gradients with respect to the last layer's kernel; clamped."""
    first, second = (torch.linalg.vector_norm(gradient) for gradient in (of_likelihood, of_adversarial))
    weight: Tensor = first / (second + EPSILON)
    return weight.clamp(0, LARGEST_WEIGHT).detach()


def perplexity(counts: Tensor) -> Tensor:
    """exp(entropy) of the codes' shares, from their counts (K,): between 1 and K."""
    shares = counts / counts.sum()
    return torch.exp(-torch.sum(torch.special.xlogy(shares, shares)))


def _softplus(x: Tensor) -> Tensor:
    return F.softplus(x, threshold=_SOFTPLUS_THRESHOLD)


def _likelihood(x: Tensor, made: Tensor, options: Loss, distance: Distance | None) -> tuple[Tensor, Metrics]:
    """Reconstruction and perceptual loss, 0-d."""
    loss = reconstruction(x, made, options.reconstruction).mean()
    perceptual = torch.zeros_like(loss)
    if distance is not None:
        perceptual = distance(x, made).mean()
    metrics = {"reconstruction": loss.detach(), "perceptual": perceptual.detach()}
    return loss + options.perceptual_weight * perceptual, metrics


def _penalty(slope: Tensor, options: Loss) -> Tensor:
    """Of the logits' gradient with respect to pictures (B, H, W, C)."""
    squares = slope.square().sum((1, 2, 3))
    norms = torch.sqrt(squares + 1e-12)
    return options.r1_cost * squares.mean() + options.gradient_penalty * (norms - 1).square().mean()


def _with_gradient(x: Tensor, gradient: Tensor, value: Tensor) -> Tensor:
    """A 0-d tensor of this value whose gradient with respect to x is the given one."""
    product = torch.sum(x * gradient.detach())
    return product + (value - product).detach()
