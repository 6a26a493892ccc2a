"""The Inception network of FID (see `dioscuri/metrics/inception.py`), with weights as an argument."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from dioscuri.metrics.inception import Conv, Fork, Layer, Pool, layers, resizing

Tensors = Mapping[str, Tensor]


def inception(pictures: Tensor, weights: Tensors) -> tuple[Tensor, Tensor]:
    """Pictures uint8 (B, H, W, 3) -> features (B, 2048), and logits (B, 1008) without their bias."""
    _, H, W, _ = pictures.shape
    rows, columns = (
        torch.as_tensor(resizing(side), dtype=weights["fc.weight"].dtype, device=pictures.device)
        for side in (H, W)
    )
    x = torch.einsum("ih,jw,bhwc->bcij", rows, columns, pictures.to(rows.dtype))
    features = _through((x - 128) / 128, layers(), weights).mean((2, 3))
    return features, features @ weights["fc.weight"].T


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
    for part in layer:
        x = _through(x, part, weights)
    return x
