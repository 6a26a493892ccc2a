"""The perceptual loss of tokenizers: the mean distance by frozen networks."""

from collections.abc import Mapping

import torch
from torch import Tensor

from dioscuri.families.vqgan.options import Loss
from dioscuri.families.vqgan.perceptual import shares, tensors_of
from torch_impl.models.imagenet_classifiers import CLASSIFIERS, logit_distance
from torch_impl.models.lpips import lpips
from torch_impl.objectives.vqgan import Distance

Tensors = Mapping[str, Tensor]


def mean_distance(loss: Loss, frozen: Tensors, dtype: torch.dtype | None, *, unit: bool) -> Distance | None:
    """A function of pictures and reconstructions, (B, H, W, C) in [0, 1] if `unit` and else in [-1, 1], that
    gives distances (B,); None if `loss` names no network. `frozen` are the networks' weights."""
    used = shares(loss)
    if not used:
        return None
    weights = {name: tensors_of(name, frozen) for name in used}

    def one(name: str, x: Tensor, made: Tensor) -> Tensor:
        if name == "lpips":
            x, made = (2 * x - 1, 2 * made - 1) if unit else (x, made)
            return lpips(x, made, weights[name], dtype)
        x, made = (x, made) if unit else ((x + 1) / 2, (made + 1) / 2)
        return logit_distance(CLASSIFIERS[name], x, made, weights[name], dtype)

    def distance(x: Tensor, made: Tensor) -> Tensor:
        distances = [share * one(name, x, made) for name, share in used.items()]
        return torch.stack(distances).sum(0)

    return distance
