"""Convolution, pooling and unpooling. Arrays are NHWC, kernels HWIO.

`Conv` takes sounds (B, L, C) and clips (B, T, H, W, C) as well.
"""

from math import prod

import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax import Array, lax
from jax.typing import DTypeLike

from jax_impl.layers.dense import broadcast
from jax_impl.layers.precision import cast

LEAK = 0.1
"""Slope of the leaky ReLU behind pooling and unpooling convolutions."""


_LAYOUTS = {1: ("NLC", "LIO", "NLC"), 2: ("NHWC", "HWIO", "NHWC"), 3: ("NTHWC", "THWIO", "NTHWC")}
"""Of arrays and kernels, by the number of axes."""


class Conv(nnx.Module):
    """Convolution of stride 1 with bias that keeps the extent: (B, ..., I) -> (B, ..., O).

    It has as many axes as its kernel. Parameters begin as zeros; the tables of `dioscuri.plans` have their
    first values. `dtype` is that of the arithmetic, None: as the input.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, ...],
        dtype: DTypeLike | None = None,
    ) -> None:
        self.kernel = nnx.Param(jnp.zeros((*kernel_size, in_channels, out_channels)))
        self.bias = nnx.Param(jnp.zeros(out_channels))
        self.kernel_size, self.dtype = kernel_size, dtype

    def __call__(self, x: Array) -> Array:
        x, kernel, bias = (cast(array, self.dtype) for array in (x, self.kernel[...], self.bias[...]))
        if prod(self.kernel_size) == 1:
            return pointwise(x, kernel.reshape(kernel.shape[-2:]), bias)
        padding, rank = [same_padding(side) for side in self.kernel_size], len(self.kernel_size)
        y = lax.conv_general_dilated(x, kernel, (1,) * rank, padding, dimension_numbers=_LAYOUTS[rank])
        return y + broadcast(bias, y)


class Conv2d(Conv):
    """That of pictures: (B, H, W, I) -> (B, H, W, O)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, int] = (1, 1),
        dtype: DTypeLike | None = None,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, dtype)


class Pool(Conv2d):
    """Convolution whose kernel is its stride, leaky ReLU: (B, H, W, I) -> (B, H / stride, W / stride, O)."""

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, dtype: DTypeLike | None = None
    ) -> None:
        super().__init__(in_channels, out_channels, (stride, stride), dtype)
        self.stride = stride

    def __call__(self, x: Array) -> Array:
        x, kernel, bias = (cast(array, self.dtype) for array in (x, self.kernel[...], self.bias[...]))
        patches = rearrange(x, "b (h s) (w t) c -> b h w (s t c)", s=self.stride, t=self.stride)
        return _leaky_relu(pointwise(patches, rearrange(kernel, "s t i o -> (s t i) o"), bias))


class Unpool(nnx.Module):
    """1x1 convolution, leaky ReLU, nearest upsampling, a bias a pixel: (B, h, w, I) -> (B, s h, s w, O)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        resolution: int,
        dtype: DTypeLike | None = None,
    ) -> None:
        self.conv = Conv2d(in_channels, out_channels, dtype=dtype)
        self.scale_bias = nnx.Param(jnp.zeros((1, resolution, resolution, out_channels)))
        self.stride, self.dtype = stride, dtype

    def __call__(self, x: Array) -> Array:
        y = _leaky_relu(self.conv(x))
        bias = cast(self.scale_bias[...], self.dtype)
        y = rearrange(y, "b h w c -> b h 1 w 1 c")
        y = y + rearrange(bias, "b (h s) (w t) c -> b h s w t c", s=self.stride, t=self.stride)
        return rearrange(y, "b h s w t c -> b (h s) (w t) c")


def pointwise(x: Array, weight: Array, bias: Array) -> Array:
    """1x1 convolution as a matrix product: (B, ..., I), (I, O), (O,) -> (B, ..., O)."""
    y = jnp.dot(x, weight)
    return y + broadcast(bias, y)


def same_padding(kernel_size: int) -> tuple[int, int]:
    """Zeros before and after an axis: for even kernels the extra one comes after, as in XLA."""
    return (kernel_size - 1) // 2, kernel_size // 2


def _leaky_relu(x: Array) -> Array:
    """With slope LEAK at 0 too, as in PyTorch: `trainable_h`, and with it the first unpooling, begins as
    zeros."""
    return jnp.where(x > 0, x, LEAK * x)
