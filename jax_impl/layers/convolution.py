"""Convolution, pooling and unpooling. Arrays are NHWC, kernels HWIO."""

import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax import Array, lax
from jax.typing import DTypeLike

from jax_impl.layers.precision import cast

LEAK = 0.1
"""Slope of the leaky ReLU behind pooling and unpooling convolutions."""


class Conv2d(nnx.Module):
    """Convolution of stride 1 with bias that keeps the resolution: (B, H, W, I) -> (B, H, W, O).

    Parameters begin as zeros; `common.plans.initialisation` has their first values. `dtype` is that of the
    arithmetic, None: as the input.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, int] = (1, 1),
        dtype: DTypeLike | None = None,
    ) -> None:
        self.kernel = nnx.Param(jnp.zeros((*kernel_size, in_channels, out_channels)))
        self.bias = nnx.Param(jnp.zeros(out_channels))
        self.kernel_size, self.dtype = kernel_size, dtype

    def __call__(self, x: Array) -> Array:
        x, kernel, bias = (cast(array, self.dtype) for array in (x, self.kernel[...], self.bias[...]))
        if self.kernel_size == (1, 1):
            return pointwise(x, kernel[0, 0], bias)
        padding = [same_padding(side) for side in self.kernel_size]
        y = lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return y + rearrange(bias, "o -> 1 1 1 o")


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
    """1x1 convolution as a matrix product: (B, H, W, I), (I, O), (O,) -> (B, H, W, O)."""
    return jnp.dot(x, weight) + rearrange(bias, "o -> 1 1 1 o")


def same_padding(kernel_size: int) -> tuple[int, int]:
    """Zeros before and after an axis: for even kernels the extra one comes after, as in XLA."""
    return (kernel_size - 1) // 2, kernel_size // 2


def _leaky_relu(x: Array) -> Array:
    """With slope LEAK at 0 too, as in PyTorch: `trainable_h`, and with it the first unpooling, begins as
    zeros."""
    return jnp.where(x > 0, x, LEAK * x)
