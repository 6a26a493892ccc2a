"""Convolution, pooling and unpooling. Tensors are NCHW, kernels OIHW, both with channels last in memory.

`convolution` also makes those of sounds (B, C, L) and of clips (B, C, T, H, W).
"""

from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

LEAK = 0.1
"""Slope of the leaky ReLU after pooling and unpooling convolutions."""


class _Product(nn.Module):
    """A 1x1 convolution as a matrix product, which is faster on tensors with channels last in memory."""

    weight: Tensor
    bias: Tensor | None

    def forward(self, x: Tensor) -> Tensor:
        return pointwise_product(x, self.weight, self.bias)


class _Pointwise1d(_Product, nn.Conv1d): ...


class _Pointwise2d(_Product, nn.Conv2d): ...


class _Pointwise3d(_Product, nn.Conv3d): ...


_CONVOLUTIONS: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
POINTWISE: tuple[Any, ...] = (_Pointwise1d, _Pointwise2d, _Pointwise3d)
"""1x1 convolutions of maps with one, two and three axes."""


def convolution(in_channels: int, out_channels: int, kernel_size: tuple[int, ...]) -> nn.Module:
    """A convolution of stride 1 with bias that keeps the extent: (B, I, ...) -> (B, O, ...).

    It has as many axes as its kernel. On an axis of even length the extra zero comes after, as in XLA.
    """
    rank = len(kernel_size)
    if prod(kernel_size) == 1:
        return pointwise(rank, in_channels, out_channels)
    layer: Any = _CONVOLUTIONS[rank](in_channels, out_channels, kernel_size, padding="same")
    if any(side % 2 == 0 for side in kernel_size):
        layer.padding_mode = "constant"  # pads by F.pad; else torch warns of a copy
    return layer


def pointwise(rank: int, in_channels: int, out_channels: int, *, bias: bool = True) -> nn.Module:
    """A 1x1 convolution of maps with `rank` axes: (B, I, ...) -> (B, O, ...)."""
    layer: nn.Module = POINTWISE[rank - 1](in_channels, out_channels, 1, bias=bias)
    return layer


def pointwise_product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """What such a convolution computes."""
    return F.linear(x.movedim(1, -1), weight.flatten(1), bias).movedim(-1, 1)


class Pool(nn.Conv2d):
    """Convolution with kernel = stride, leaky ReLU: (B, I, H, W) -> (B, O, H / stride, W / stride)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__(in_channels, out_channels, stride, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Patches do not overlap, so this is a matrix product."""
        s, t = self.kernel_size
        patches = rearrange(x, "b c (h s) (w t) -> b h w (s t c)", s=s, t=t)
        y = F.linear(patches, rearrange(self.weight, "o i s t -> o (s t i)"), self.bias)
        return F.leaky_relu(y.movedim(-1, 1), LEAK)


class Unpool(nn.Module):
    """1x1 convolution, leaky ReLU, nearest upsampling, per-pixel bias: (B, I, h, w) -> (B, O, s h, s w)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, resolution: int) -> None:
        super().__init__()
        self.conv = convolution(in_channels, out_channels, (1, 1))
        self.scale_bias = nn.Parameter(torch.zeros(1, out_channels, resolution, resolution))
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        y = rearrange(F.leaky_relu(self.conv(x), LEAK), "b c h w -> b h 1 w 1 c")
        s = self.stride
        y = y + rearrange(self.scale_bias, "b c (h s) (w t) -> b h s w t c", s=s, t=s)
        return rearrange(y, "b h s w t c -> b c (h s) (w t)")
