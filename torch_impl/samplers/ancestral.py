"""Ancestral sampling: its guidance, and its last step, from the output layer to pictures, sounds or clips."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dioscuri.families.latent_models.plan import LatentPlan
from dioscuri.families.latent_models.protocols import LatentHParams
from torch_impl.layers.pictures import to_levels
from torch_impl.objectives.likelihoods import (
    absolute_mean,
    bernoulli_mean,
    bernoulli_sample,
    mixture_mean,
    mixture_sample,
)


def guided_layer(
    model: Any,
    noise: Mapping[str, Tensor],
    temperatures: Tensor,
    labels: tuple[Tensor, Tensor],
    scale: Tensor | float,
) -> Tensor:
    """The output layer (B, H, W, K) of latents that `labels`, the classes (B,) and what stands for none,
    guide with the factor 1 + scale: the network meets every row twice, with the same noise and latents.
    Guidance in hierarchical VAEs is due to Luhman and Luhman 2022."""
    doubled = {name: torch.cat([x, x]) for name, x in noise.items() if name.startswith("prior.")}
    layer, _ = model.generate(doubled, temperatures, label=torch.cat(labels), guidance=1 + scale)
    with_class: Tensor = layer[: len(labels[0])]
    return with_class


def read_output(
    layer: Tensor,
    noise: Mapping[str, Tensor],
    plan: LatentPlan,
    hparams: LatentHParams,
    output: str = "sample",
    temperature: Tensor | float = 1.0,
) -> Tensor:
    """Pictures uint8 (B, h, w, C) without padding, sounds or clips: a `sample`, with the plan's
    `output_noise`, or the `mean`."""
    values = read_values(layer, noise, plan, hparams, output, temperature)
    return to_levels(values, plan, hparams)


def read_values(
    layer: Tensor,
    noise: Mapping[str, Tensor],
    plan: LatentPlan,
    hparams: LatentHParams,
    output: str = "sample",
    temperature: Tensor | float = 1.0,
) -> Tensor:
    """The same in the model's range, before rounding."""
    if plan.likelihood == "absolute":
        return absolute_mean(layer, plan)
    if plan.likelihood == "bernoulli" and output == "mean":
        return bernoulli_mean(layer, plan, temperature)
    if plan.likelihood == "bernoulli":
        return bernoulli_sample(layer, noise, plan, temperature)
    if output == "mean":
        return mixture_mean(layer, plan, hparams, temperature)
    return mixture_sample(layer, noise, plan, hparams, temperature)
