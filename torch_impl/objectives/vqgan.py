"""Losses of a tokenizer's training (Esser et al. 2021, equations 4 to 7).

Networks are arguments: `distance(x, made)` returns a perceptual distance (B,), `critic(pictures)` a verdict:
logits of one or more heads, high for real pictures, and embeddings for a contrastive loss. Generator and
discriminator can be trained by one backward pass over the sum of their losses, because each sees the other's
tensors as constants.
"""

from collections.abc import Callable, Mapping
from math import prod
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from dioscuri.families.vqgan.options import Loss
from torch_impl.layers.precision import at_least_float32

Distance = Callable[[Tensor, Tensor], Tensor]
Metrics = dict[str, Tensor]
Tensors = Mapping[str, Tensor]


class Verdict(NamedTuple):
    """Logits of every adversarial head, (B, ...), and embeddings (B, h, w, E) of every contrastive one."""

    logits: tuple[Tensor, ...]
    embeddings: tuple[Tensor, ...] = ()


Critic = Callable[[Tensor], Verdict]

LARGEST_WEIGHT = 1e4
EPSILON = 1e-4
LARGEST_GROUP = 1024
"""Maximum number of positions that are contrasted with each other."""
_SOFTPLUS_THRESHOLD = 50
"""Above this, softplus is the identity to float64's resolution; exp(50) is still finite in float32."""


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
    """Loss of reconstructions `made` (B, H, W, C) of pictures x, and its terms.

    The terms are `reconstruction` and `perceptual` and, with a critic, `generator`, `contrastive` and their
    weight `disc_weight`. `pull_back` maps a gradient with respect to the pictures to one with respect to the
    last layer's kernel, for equation 7. The loss's gradient with respect to `made` is computed here once, and
    attached to the returned loss as a constant.
    """
    x, leaf = x.detach(), made.detach().requires_grad_()
    likelihood, metrics = _likelihood(x, leaf, options, distance)
    (gradient,) = torch.autograd.grad(likelihood, leaf)
    value = likelihood.detach()
    if critic is not None:
        adversarial, terms = _adversarial(x, leaf, options, critic)
        (of_adversarial,) = torch.autograd.grad(adversarial, leaf)
        weight = torch.full_like(value, options.disc_weight)
        if options.adaptive_disc_weight and pull_back is not None:
            weight = weight * adaptive_weight(pull_back(gradient), pull_back(of_adversarial))
        metrics |= terms | {"disc_weight": weight}
        weight = options.disc_factor * weight
        gradient, value = gradient + weight * of_adversarial, value + weight * adversarial.detach()
    return _with_gradient(made, gradient, value), metrics


def quantiser_loss(losses: Tensors, entropy_weight: Tensor | float) -> Tensor:
    """The sum of a quantiser's losses, with an additional weight of its entropy loss."""
    return losses["quantiser"] + entropy_weight * losses["entropy"]


def discriminator_terms(
    x: Tensor, made: Tensor, options: Loss, critic: Critic, averages: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Metrics]:
    """The critic's loss on pictures x and their reconstructions, (B, H, W, C), in separate batches.
    `averages` of the mean logits of both, each (1,), add the LeCam penalty.

    Terms: `discriminator`, without penalties and contrastive loss, the mean logits, `logits_real` and
    `logits_fake`, and the penalty `lecam`.
    """
    penalised = options.r1_cost > 0 or options.gradient_penalty > 0
    x = x.detach().requires_grad_(penalised)
    real, fake = critic(x), critic(made.detach())
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
        (slope,) = torch.autograd.grad(_penalised_logits(real, options).sum(), x, create_graph=True)
        loss = loss + _penalty(slope, options)
    return loss, {name: value.detach() for name, value in metrics.items()}


def generator_loss(fake: Tensor, kind: str) -> Tensor:
    """Mean over the logits of reconstructions: softplus(-logit) for 'non_saturating', else -logit."""
    return (_softplus(-fake) if kind == "non_saturating" else -fake).mean()


def discriminator_loss(real: Tensor, fake: Tensor, kind: str) -> Tensor:
    """Mean over logits of half the hinge losses (Lim and Ye 2017), or of half or
    all of the cross-entropies."""
    if kind == "hinge":
        return (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2
    total = _softplus(-real).mean() + _softplus(fake).mean()
    return total / 2 if kind == "vanilla" else total


def contrastive_loss(real: Verdict, fake: Verdict, *, patches: bool) -> Tensor:
    """Cross-entropy of matching each embedding of a reconstruction to that of its picture among a group
    (Parmar et al. 2021, equation 5, without temperature), mean over the heads.

    Groups are, with `patches`, consecutive positions of all pictures, at most 1024, else the pictures at a
    position.
    """
    losses = []
    for x, y in zip(real.embeddings, fake.embeddings, strict=True):
        x, y = (_groups(tensor, patches=patches) for tensor in (x, y))
        products = torch.einsum("gie,gje->gij", x, y)
        losses.append(-torch.diagonal(products.log_softmax(1), dim1=1, dim2=2).mean())
    return _mean(losses)


def lecam(real: Tensor, fake: Tensor, averages: tuple[Tensor, Tensor]) -> Tensor:
    """LeCam penalty (Tseng et al. 2021, equation 5, with hinges): the squared excess of the pictures' mean
    logit (0-d) over the reconstructions' moving average (1,), and of the pictures' average over the
    reconstructions' mean logit."""
    average_real, average_fake = averages
    penalty: Tensor = (F.relu(real - average_fake).square() + F.relu(average_real - fake).square()).sum()
    return penalty


def adaptive_weight(of_likelihood: Tensor, of_adversarial: Tensor) -> Tensor:
    """Equation 7, from the two gradients with respect to the last layer's kernel, clamped."""
    first, second = (torch.linalg.vector_norm(gradient) for gradient in (of_likelihood, of_adversarial))
    weight: Tensor = first / (second + EPSILON)
    return weight.clamp(0, LARGEST_WEIGHT).detach()


def code_losses(logits: Tensor, codes: Tensor) -> Tensor:
    """Mean cross-entropies (B,) of codes (B, h, w) under logits (B, h, w, K)."""
    losses: Tensor = F.cross_entropy(
        rearrange(at_least_float32(logits), "b h w k -> b k h w"), codes, reduction="none"
    )
    return losses.mean((1, 2))


def code_counts(indices: Tensor, codebook_size: int, dtype: torch.dtype) -> Tensor:
    """How often each code (K,) occurs in the indices."""
    counts = torch.zeros(codebook_size, dtype=dtype, device=indices.device)
    return counts.index_add_(0, indices.flatten(), torch.ones_like(indices.flatten(), dtype=dtype))


def perplexity(counts: Tensor) -> Tensor:
    """exp(entropy) of the codes' frequencies, from their counts (K,): between 1 and K."""
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
    return options.reconstruction_weight * loss + options.perceptual_weight * perceptual, metrics


def _adversarial(x: Tensor, leaf: Tensor, options: Loss, critic: Critic) -> tuple[Tensor, Metrics]:
    """The adversarial and contrastive losses of reconstructions, and their terms."""
    verdict = critic(leaf)
    loss = _mean([generator_loss(logits, options.disc_loss) for logits in verdict.logits])
    terms = {"generator": loss.detach()}
    if verdict.embeddings:
        contrast = contrastive_loss(critic(x), verdict, patches=options.patch_nce)
        terms["contrastive"] = contrast.detach()
        loss = loss + options.contrastive_weight * contrast
    return loss, terms


def _groups(x: Tensor, *, patches: bool) -> Tensor:
    """Embeddings (B, h, w, E) -> (groups, members, E)."""
    if not patches:
        return rearrange(x, "b h w e -> (h w) b e")
    n = prod(x.shape[:3])
    size = next(size for size in range(min(LARGEST_GROUP, n), 0, -1) if n % size == 0)
    return rearrange(rearrange(x, "b h w e -> (b h w) e"), "(g n) e -> g n e", n=size)


def _penalised_logits(real: Verdict, options: Loss) -> Tensor:
    """The logits whose gradient with respect to the pictures is penalised, those of the last head."""
    logits = real.logits[-1]
    return logits[: len(logits) // 2] if options.legacy_half_r1 else logits


def _mean(values: list[Tensor]) -> Tensor:
    return torch.stack(values).mean()


def _penalty(slope: Tensor, options: Loss) -> Tensor:
    """Penalty of the logits' gradient with respect to pictures (B, H, W, C)."""
    squares = slope.square().sum((1, 2, 3))
    norms = torch.sqrt(squares + 1e-12)
    return options.r1_cost * squares.mean() + options.gradient_penalty * (norms - 1).square().mean()


def _with_gradient(x: Tensor, gradient: Tensor, value: Tensor) -> Tensor:
    """A 0-d tensor of this value whose gradient with respect to x is the given one."""
    product = torch.sum(x * gradient.detach())
    return product + (value - product).detach()
