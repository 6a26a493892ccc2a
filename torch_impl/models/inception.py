"""The Inception network of FID (see `dioscuri/metrics/inception.py`), with weights as an argument."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from dioscuri.metrics.inception import Conv, Fork, Layer, Pool, layers, resizing

Tensors = Mapping[str, Tensor]


def inception(pictures: Tensor, weights: Tensors) -> tuple[Tensor, Tensor]:
    """Pictures uint8 (B, H, W, 3) -> features (B, 2048), and logits (B, 1008) without their bias."""
    return features(resized(pictures, weights["fc.weight"].dtype), weights)


def resized(pictures: Tensor, dtype: torch.dtype) -> Tensor:
    """Pictures uint8 (B, H, W, 3) -> the network's input (B, 3, 299, 299), -1 ... 1."""
    _, H, W, _ = pictures.shape
    rows, columns = (torch.as_tensor(resizing(side), dtype=dtype, device=pictures.device) for side in (H, W))
    return (torch.einsum("ih,jw,bhwc->bcij", rows, columns, pictures.to(dtype)) - 128) / 128


def features(x: Tensor, weights: Tensors) -> tuple[Tensor, Tensor]:
    """The network's input -> features (B, 2048), and logits (B, 1008) without their bias."""
    pooled = _through(x, layers(), weights).mean((2, 3))
    return pooled, pooled @ weights["fc.weight"].T


def _through(x: Tensor, layer: Layer, weights: Tensors) -> Tensor:
    """x (B, I, H, W) -> (B, O, H', W')."""
    if isinstance(layer, Conv):
        weight, bias = weights[f"{layer.name}.weight"], weights[f"{layer.name}.bias"]
        return F.relu(F.conv2d(x, weight, bias, stride=layer.stride, padding=layer.padding))
    if isinstance(layer, Pool):
        padding = int(layer.stride == 1)
        if layer.kind == "max":
            return F.max_pool2d(x, 3, layer.stride, padding)
        return F.avg_pool2d(x, 3, layer.stride, padding, count_include_pad=False)
    if isinstance(layer, Fork):
        return torch.cat([_through(x, branch, weights) for branch in layer.branches], 1)
    for inner in layer:
        x = _through(x, inner, weights)
    return x
