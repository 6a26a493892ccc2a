"""LPIPS (Zhang et al. 2018, equation 1): distance of pictures by weighted features of VGG16."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from dioscuri.families.vqgan.lpips import BLOCKS, SCALE, SHIFT
from torch_impl.layers.precision import at_least_float32

EPSILON = 1e-10
"""Added to the features' norm."""


def lpips(
    first: Tensor, second: Tensor, weights: Mapping[str, Tensor], dtype: torch.dtype | None = None
) -> Tensor:
    """Pictures in [-1, 1], (B, H, W, 3) or (B, H, W, 1) -> distances (B,).

    `weights` are those of `dioscuri.families.vqgan.lpips.weight_shapes`; the network computes in `dtype`.
    """
    B = len(first)
    distance = torch.zeros(B, device=first.device)
    both = _features(torch.cat([first, second]), weights, dtype)
    for block, features in enumerate(both):
        y = at_least_float32(features)
        y = y / (_norm(y) + EPSILON)
        factors = rearrange(weights[f"lin{block}.weight"], "c -> 1 c 1 1")
        distance = distance + (factors * torch.square(y[:B] - y[B:])).sum(1).mean((1, 2))
    return distance


def _norm(y: Tensor) -> Tensor:
    """Norm of a pixel's features, with gradient 0 where they are all 0."""
    squares = torch.sum(torch.square(y), 1, keepdim=True)
    return torch.where(squares > 0, torch.sqrt(torch.where(squares > 0, squares, 1)), 0)


def _features(x: Tensor, weights: Mapping[str, Tensor], dtype: torch.dtype | None) -> list[Tensor]:
    """Activations (B, C, h, w) after the last ReLU of every block."""
    shift, scale = (torch.tensor(values, dtype=x.dtype, device=x.device) for values in (SHIFT, SCALE))
    y = ((x - shift) / scale).permute(0, 3, 1, 2)
    y = y if dtype is None else y.to(dtype)
    features: list[Tensor] = []
    for block, convolutions in enumerate(BLOCKS):
        y = F.max_pool2d(y, 2) if block else y
        for index in convolutions:
            weight, bias = (weights[f"features.{index}.{leaf}"].to(y.dtype) for leaf in ("weight", "bias"))
            y = F.relu(F.conv2d(y, weight, bias, padding=1))
        features.append(y)
    return features
