"""ConvNeXt (Liu et al. 2022) and ResNet (He et al. 2016) with torchvision's weights, and the distance of
pictures by their logits (Weber et al. 2024, section 3.1; Yu et al. 2024).

Networks are functions of frozen weights, under torchvision's names, as a loss has no modules.
"""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from dioscuri.families.vqgan.imagenet_classifiers import DEVIATION, MEAN, SIDE
from torch_impl.layers.precision import at_least_float32

Tensors = Mapping[str, Tensor]
Network = Callable[[Tensor, Tensors], Tensor]

LAYER_EPSILON, BATCH_EPSILON = 1e-6, 1e-5


def logit_distance(
    network: Network, first: Tensor, second: Tensor, weights: Tensors, dtype: torch.dtype | None = None
) -> Tensor:
    """Mean squared difference (B,) of the logits of pictures in [0, 1], (B, H, W, 3) or (B, H, W, 1).

    The network computes in `dtype`.
    """
    x = torch.cat([first, second]).permute(0, 3, 1, 2)
    x = F.interpolate(x, (SIDE, SIDE), mode="bilinear", align_corners=False, antialias=True)
    mean, deviation = (x.new_tensor(values)[:, None, None] for values in (MEAN, DEVIATION))
    x = (x - mean) / deviation
    y = at_least_float32(network(x if dtype is None else x.to(dtype), weights))
    return torch.square(y[: len(first)] - y[len(first) :]).mean(1)


def convnext(x: Tensor, weights: Tensors) -> Tensor:
    """Normalised pictures (B, 3, H, W) -> logits (B, K)."""
    x = _convolve(x, weights, "features.0.0", stride=4)
    x = _channel_norm(x, weights, "features.0.1")
    stage = 1
    while f"features.{stage}.0.layer_scale" in weights:
        block = 0
        while (name := f"features.{stage}.{block}") + ".layer_scale" in weights:
            x = x + _convnext_block(x, weights, name)
            block += 1
        if f"features.{stage + 1}.0.weight" in weights:
            x = _channel_norm(x, weights, f"features.{stage + 1}.0")
            x = _convolve(x, weights, f"features.{stage + 1}.1", stride=2)
        stage += 2
    x = _channel_norm(x.mean((2, 3), keepdim=True), weights, "classifier.0")
    return _dense(x.flatten(1), weights, "classifier.2")


def resnet(x: Tensor, weights: Tensors) -> Tensor:
    """Normalised pictures (B, 3, H, W) -> logits (B, K)."""
    x = F.relu(_batch_norm(_convolve(x, weights, "conv1", stride=2, padding=3), weights, "bn1"))
    x = F.max_pool2d(x, 3, 2, 1)
    stage = 1
    while f"layer{stage}.0.conv1.weight" in weights:
        block = 0
        while (name := f"layer{stage}.{block}") + ".conv1.weight" in weights:
            x = _bottleneck(x, weights, name, stride=2 if stage > 1 and block == 0 else 1)
            block += 1
        stage += 1
    return _dense(x.mean((2, 3)), weights, "fc")


def _convnext_block(x: Tensor, weights: Tensors, name: str) -> Tensor:
    y = _convolve(x, weights, f"{name}.block.0", padding=3, groups=x.shape[1])
    y = _channel_norm(y, weights, f"{name}.block.2").permute(0, 2, 3, 1)
    y = _dense(F.gelu(_dense(y, weights, f"{name}.block.3")), weights, f"{name}.block.5")
    return y.permute(0, 3, 1, 2) * _like(y, weights, f"{name}.layer_scale")


def _bottleneck(x: Tensor, weights: Tensors, name: str, stride: int) -> Tensor:
    y = x
    for number, (step, padding) in enumerate(((1, 0), (stride, 1), (1, 0)), 1):
        y = _convolve(y, weights, f"{name}.conv{number}", stride=step, padding=padding)
        y = _batch_norm(y, weights, f"{name}.bn{number}")
        y = F.relu(y) if number < 3 else y
    if f"{name}.downsample.0.weight" in weights:
        x = _convolve(x, weights, f"{name}.downsample.0", stride=stride)
        x = _batch_norm(x, weights, f"{name}.downsample.1")
    return F.relu(x + y)


def _convolve(
    x: Tensor, weights: Tensors, name: str, stride: int = 1, padding: int = 0, groups: int = 1
) -> Tensor:
    bias = _like(x, weights, f"{name}.bias") if f"{name}.bias" in weights else None
    return F.conv2d(x, _like(x, weights, f"{name}.weight"), bias, stride, padding, groups=groups)


def _dense(x: Tensor, weights: Tensors, name: str) -> Tensor:
    return F.linear(x, _like(x, weights, f"{name}.weight"), _like(x, weights, f"{name}.bias"))


def _channel_norm(x: Tensor, weights: Tensors, name: str) -> Tensor:
    scale, bias = (_like(x, weights, f"{name}.{leaf}") for leaf in ("weight", "bias"))
    return F.layer_norm(x.permute(0, 2, 3, 1), scale.shape, scale, bias, LAYER_EPSILON).permute(0, 3, 1, 2)


def _batch_norm(x: Tensor, weights: Tensors, name: str) -> Tensor:
    leaves = ("running_mean", "running_var", "weight", "bias")
    mean, variance, scale, bias = (_like(x, weights, f"{name}.{leaf}") for leaf in leaves)
    return F.batch_norm(x, mean, variance, scale, bias, eps=BATCH_EPSILON)


def _like(x: Tensor, weights: Tensors, name: str) -> Tensor:
    return weights[name].to(x.dtype)


CLASSIFIERS: dict[str, Network] = {"convnext": convnext, "resnet": resnet}
"""Name in the options -> network."""
