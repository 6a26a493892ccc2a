"""Convolution, pooling and unpooling. Tensors are NCHW, kernels OIHW, both with channels last in memory."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from torch_impl.layers.precision import cast

LEAK = 0.1
"""Slope of the leaky ReLU behind pooling and unpooling convolutions."""


class Conv2d(nn.Module):
    """Convolution of stride 1 with bias that keeps the resolution: (B, I, H, W) -> (B, O, H, W).

    Parameters begin as zeros; `common.plans.initialisation` has their first values. `dtype` is that of the
    arithmetic, None: as the input.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, int] = (1, 1),
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(out_channels, in_channels, *kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.kernel_size, self.dtype = kernel_size, dtype

    def forward(self, x: Tensor) -> Tensor:
        x, weight, bias = (cast(tensor, self.dtype) for tensor in (x, self.weight, self.bias))
        if self.kernel_size == (1, 1):
            return pointwise(x, weight.flatten(1), bias)
        (top, bottom), (left, right) = (same_padding(side) for side in self.kernel_size)
        if (top, left) == (bottom, right):
            return F.conv2d(x, weight, bias, padding=(top, left))
        return F.conv2d(F.pad(x, (left, right, top, bottom)), weight, bias)


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
    """1x1 convolution as a matrix product: (B, I, H, W), (O, I), (O,) -> (B, O, H, W)."""
    return F.linear(x.permute(0, 2, 3, 1), weight, bias).permute(0, 3, 1, 2)


def same_padding(kernel_size: int) -> tuple[int, int]:
    """Zeros before and after an axis: for even kernels the extra one comes after, as in XLA."""
    return (kernel_size - 1) // 2, kernel_size // 2
