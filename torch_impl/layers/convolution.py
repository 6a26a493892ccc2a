"""Convolution, pooling and unpooling. Tensors are NCHW, kernels OIHW, both with channels last in memory.

`Conv` takes sounds (B, C, L) and clips (B, C, T, H, W) as well.
"""

from math import prod

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from torch_impl.layers.precision import cast

LEAK = 0.1
"""Slope of the leaky ReLU behind pooling and unpooling convolutions."""


_CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
"""By the number of axes."""


class Conv(nn.Module):
    """Convolution of stride 1 with bias that keeps the extent: (B, I, ...) -> (B, O, ...).

    It has as many axes as its kernel. Parameters begin as zeros; the tables of `dioscuri.plans` have their
    first values. `dtype` is that of the arithmetic, None: as the input.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, ...],
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(out_channels, in_channels, *kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.kernel_size, self.dtype = kernel_size, dtype

    def forward(self, x: Tensor) -> Tensor:
        x, weight, bias = (cast(tensor, self.dtype) for tensor in (x, self.weight, self.bias))
        if prod(self.kernel_size) == 1:
            return pointwise(x, weight.flatten(1), bias)
        convolve, padding = _CONVOLUTIONS[x.ndim - 2], [same_padding(side) for side in self.kernel_size]
        if all(before == after for before, after in padding):
            return convolve(x, weight, bias, padding=tuple(before for before, _ in padding))
        edges = [edge for pair in reversed(padding) for edge in pair]
        return convolve(F.pad(x, edges), weight, bias)


class Conv2d(Conv):
    """That of pictures: (B, I, H, W) -> (B, O, H, W)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, int] = (1, 1),
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, dtype)


class Pool(Conv2d):
    """Convolution whose kernel is its stride, leaky ReLU: (B, I, H, W) -> (B, O, H / stride, W / stride)."""

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__(in_channels, out_channels, (stride, stride), dtype)
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        x, weight, bias = (cast(tensor, self.dtype) for tensor in (x, self.weight, self.bias))
        patches = rearrange(x, "b c (h s) (w t) -> b (s t c) h w", s=self.stride, t=self.stride)
        return F.leaky_relu(pointwise(patches, rearrange(weight, "o i s t -> o (s t i)"), bias), LEAK)


class Unpool(nn.Module):
    """1x1 convolution, leaky ReLU, nearest upsampling, a bias a pixel: (B, I, h, w) -> (B, O, s h, s w)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        resolution: int,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.conv = Conv2d(in_channels, out_channels, dtype=dtype)
        self.scale_bias = nn.Parameter(torch.zeros(1, out_channels, resolution, resolution))
        self.stride, self.dtype = stride, dtype

    def forward(self, x: Tensor) -> Tensor:
        y = F.leaky_relu(self.conv(x), LEAK)
        bias = cast(self.scale_bias, self.dtype)
        y = rearrange(y, "b c h w -> b h 1 w 1 c")
        y = y + rearrange(bias, "b c (h s) (w t) -> b h s w t c", s=self.stride, t=self.stride)
        return rearrange(y, "b h s w t c -> b c (h s) (w t)")


def pointwise(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """1x1 convolution as a matrix product: (B, I, ...), (O, I), (O,) -> (B, O, ...)."""
    return F.linear(x.movedim(1, -1), weight, bias).movedim(-1, 1)


def same_padding(kernel_size: int) -> tuple[int, int]:
    """Zeros before and after an axis: for even kernels the extra one comes after, as in XLA."""
    return (kernel_size - 1) // 2, kernel_size // 2
