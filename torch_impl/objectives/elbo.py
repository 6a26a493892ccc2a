"""The evidence lower bound, and the training loss with balanced groups (NVAE, Vahdat and Kautz 2020)."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from math import log, pi

import torch
from torch import Tensor

from dioscuri.families.latent_models.plan import LatentPlan
from dioscuri.families.latent_models.protocols import LatentHParams
from torch_impl.layers.latents import standard_deviation
from torch_impl.objectives.likelihoods import log_prob

Terms = tuple[Tensor, Tensor]
Tensors = Mapping[str, Tensor]


def elbo_terms(
    output: Tensor,
    aux: Tensors,
    target: Tensor,
    plan: LatentPlan,
    hparams: LatentHParams,
    masks: Sequence[Tensor] | None = None,
) -> Terms:
    """Terms of the negative bound in nats per picture: reconstruction (B,) and KL of every group (B, L).

    With `masks`, one (Z,) per group, the KL of variates from the prior is left out.
    """
    reconstruction = -log_prob(output, target, plan, hparams)
    kl = []
    for group in range(len(plan.groups)):
        divergence = latent_kl(aux, group, hparams)  # (B, *grid, Z)
        if masks is not None:
            divergence = divergence * masks[group]
        kl.append(divergence.sum(tuple(range(1, divergence.ndim))))
    return reconstruction, torch.stack(kl, 1)


def latent_kl(aux: Tensors, group: int, hparams: LatentHParams) -> Tensor:
    """KL(posterior || prior) of every latent (B, *grid, Z) in nats."""
    posterior_mean, posterior_scale = aux[f"posterior_mean.{group}"], aux[f"posterior_scale.{group}"]
    prior_mean, prior_scale = aux[f"prior_mean.{group}"], aux[f"prior_scale.{group}"]
    if hparams.model.distribution_base == "logstd":
        beta = hparams.model.gradient_smoothing_beta
        log_ratio = posterior_scale - prior_scale
        ratio, prior_inverse = torch.exp(beta * log_ratio), torch.exp(-beta * prior_scale)
        log_ratio = log_ratio if hparams.loss.legacy_logstd_kl else beta * log_ratio
    else:
        ratio, prior_inverse = posterior_scale / prior_scale, 1 / prior_scale
        log_ratio = torch.log(ratio)
    distance = (posterior_mean - prior_mean) * prior_inverse
    return 0.5 * (distance.square() + ratio.square() - 1) - log_ratio


def log_ratios(
    aux: Tensors, plan: LatentPlan, hparams: LatentHParams, masks: Sequence[Tensor] | None = None
) -> Tensor:
    """log q(z | x) - log p(z) of sampled latents, (B, L) in nats; its mean over samples is the KL.

    `masks` as in `elbo_terms`: a variate from the prior has the same density in both.
    """
    ratios = []
    for group in range(len(plan.groups)):
        z = aux[f"z.{group}"]
        posterior, prior = (_log_density(z, aux, name, group, hparams) for name in ("posterior", "prior"))
        ratio = posterior - prior  # (B, *grid, Z)
        if masks is not None:
            ratio = ratio * masks[group]
        ratios.append(ratio.sum(tuple(range(1, ratio.ndim))))
    return torch.stack(ratios, 1)


def training_loss(
    terms: Terms,
    plan: LatentPlan,
    hparams: LatentHParams,
    scalars: Tensors,
    statistics: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss in nats per value of the picture, and metrics: `loss`, and `reconstruction` and
    `kl` (L,) in nats per picture.

    `scalars` holds `beta` and `gamma` (1: balance the groups, 0: do not). `statistics` is the mean KL (L,) by
    which to balance; None: that of these terms.
    """
    reconstruction, kl = terms[0].mean(), terms[1].mean(0)
    weights = _balance(kl if statistics is None else statistics, plan, hparams).detach()
    weights = scalars["gamma"] * weights + (1 - scalars["gamma"])
    loss = (reconstruction + scalars["beta"] * (weights * kl).sum()) / plan.image_dims
    return loss, {"loss": loss, "reconstruction": reconstruction, "kl": kl}


def _balance(kl: Tensor, plan: LatentPlan, hparams: LatentHParams) -> Tensor:
    """Weights (L,) with mean 1, proportional to a group's KL or, with `scaled_gamma`, KL per dimension."""
    if hparams.loss.scaled_gamma:
        runs = [
            (dims, len(list(run))) for dims, run in groupby(map(plan.latent_dims, range(len(plan.groups))))
        ]
        runs_of_kl = kl.split([length for _, length in runs])
        kl = torch.cat([run_of_kl / dims for run_of_kl, (dims, _) in zip(runs_of_kl, runs, strict=True)])
    mean = kl.mean()
    return kl / torch.where(
        mean == 0, 1, mean
    )  # if the KL is exactly zero everywhere, there is nothing to balance


def _log_density(z: Tensor, aux: Tensors, name: str, group: int, hparams: LatentHParams) -> Tensor:
    std = standard_deviation(aux[f"{name}_scale.{group}"], hparams.model)
    distance = (z - aux[f"{name}_mean.{group}"]) / std
    return -0.5 * (distance.square() + log(2 * pi)) - torch.log(std)
