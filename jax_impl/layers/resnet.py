"""Residual blocks of image tokenizers. Arrays are NHWC."""

import jax
import jax.numpy as jnp
from einops import rearrange, reduce, repeat
from flax import nnx
from jax import Array, lax
from jax.typing import DTypeLike

from jax_impl.layers.attention import attend
from jax_impl.layers.dense import broadcast
from jax_impl.layers.dropout import dropout
from jax_impl.layers.precision import at_least_float32, cast

EPSILON = 1e-6


class Convolution(nnx.Module):
    """Square kernel, (B, H, W, I) -> (B, H, W, O); with `stride` 2 zeros stand right and below only."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        bias: bool = True,
        stride: int = 1,
        dtype: DTypeLike | None = None,
    ) -> None:
        self.kernel = nnx.Param(jnp.zeros((kernel, kernel, inputs, outputs)))
        self.bias = nnx.Param(jnp.zeros(outputs)) if bias else None
        self.side, self.stride, self.dtype = kernel, stride, dtype

    def __call__(self, x: Array) -> Array:
        x, kernel = cast(x, self.dtype), cast(self.kernel[...], self.dtype)
        if self.side == 1:
            y = jnp.dot(x, kernel[0, 0])
        else:
            edges = (0, 1) if self.stride > 1 else (self.side // 2, self.side // 2)
            strides = (self.stride, self.stride)
            names = ("NHWC", "HWIO", "NHWC")
            y = lax.conv_general_dilated(x, kernel, strides, [edges, edges], dimension_numbers=names)
        return y if self.bias is None else y + broadcast(cast(self.bias[...], self.dtype), y)


class GroupNorm(nnx.Module):
    """Over the grid and the channels of a group (Wu and He 2018); statistics in at least float32."""

    def __init__(self, width: int, groups: int) -> None:
        self.scale = nnx.Param(jnp.zeros(width))
        self.bias = nnx.Param(jnp.zeros(width))
        self.groups = groups

    def __call__(self, x: Array) -> Array:
        y = rearrange(at_least_float32(x), "b h w (g c) -> b h w g c", g=self.groups)
        centred = y - y.mean((1, 2, 4), keepdims=True)
        y = centred * lax.rsqrt(jnp.square(centred).mean((1, 2, 4), keepdims=True) + EPSILON)
        y = rearrange(y, "b h w g c -> b h w (g c)")
        return (y * broadcast(self.scale[...], y) + broadcast(self.bias[...], y)).astype(x.dtype)


class SpatialNorm(nnx.Module):
    """A group norm whose factors and summands are 1x1 convolutions of the codes, which lie on a grid that is
    as fine or coarser (Zheng et al. 2022, MoVQ, equation 5)."""

    def __init__(self, width: int, groups: int, codes: int, dtype: DTypeLike | None = None) -> None:
        self.norm_layer = GroupNorm(width, groups)
        self.conv_y = Convolution(codes, width, 1, dtype=dtype)
        self.conv_b = Convolution(codes, width, 1, dtype=dtype)

    def __call__(self, x: Array, codes: Array) -> Array:
        """(B, H, W, C) and (B, h, w, D) -> (B, H, W, C)."""
        factor, summand = (self._spread(layer(codes), x) for layer in (self.conv_y, self.conv_b))
        return self.norm_layer(x) * factor + summand

    def _spread(self, y: Array, like: Array) -> Array:
        """What the nearest position has; convolved before, for 1x1 kernels do not mind."""
        s = like.shape[1] // y.shape[1]
        return repeat(y, "b h w c -> b (h s) (w t) c", s=s, t=s)


class ResnetBlock(nnx.Module):
    """Two norms, SiLUs and 3x3 convolutions beside a shortcut: (B, H, W, I) -> (B, H, W, O).

    `legacy_shortcut`: where the width changes, the shortcut takes the convolutions' output, not the input.
    `modulation`: channels of the codes that modulate the norms; 0: none do.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        groups: int,
        bias: bool,
        rate: float,
        legacy_shortcut: bool = False,
        modulation: int = 0,
        dtype: DTypeLike | None = None,
    ) -> None:
        self.norm1 = _norm(inputs, groups, modulation, dtype)
        self.conv1 = Convolution(inputs, outputs, 3, bias=bias, dtype=dtype)
        self.norm2 = _norm(outputs, groups, modulation, dtype)
        self.conv2 = Convolution(outputs, outputs, 3, bias=bias, dtype=dtype)
        self.rate, self.legacy_shortcut = rate, legacy_shortcut
        seen = outputs if legacy_shortcut else inputs
        changes = inputs != outputs
        self.nin_shortcut = Convolution(seen, outputs, 1, bias=bias, dtype=dtype) if changes else None

    def __call__(self, x: Array, uniform: Array | None = None, codes: Array | None = None) -> Array:
        """`uniform` (B, H, W, O) is for dropout."""
        y = self.conv1(jax.nn.silu(_normed(self.norm1, x, codes)))
        y = jax.nn.silu(_normed(self.norm2, y, codes))
        y = self.conv2(dropout(y, uniform, self.rate))
        if self.nin_shortcut is None:
            return x + y
        return y + self.nin_shortcut(y if self.legacy_shortcut else x)


class GridAttention(nnx.Module):
    """Attention of one head among the positions of a grid, beside a shortcut: (B, H, W, C) -> the same."""

    def __init__(
        self, width: int, *, groups: int, modulation: int = 0, dtype: DTypeLike | None = None
    ) -> None:
        self.norm = _norm(width, groups, modulation, dtype)
        self.q = Convolution(width, width, 1, dtype=dtype)
        self.k = Convolution(width, width, 1, dtype=dtype)
        self.v = Convolution(width, width, 1, dtype=dtype)
        self.proj_out = Convolution(width, width, 1, dtype=dtype)

    def __call__(self, x: Array, codes: Array | None = None) -> Array:
        y = _normed(self.norm, x, codes)
        q, k, v = (rearrange(layer(y), "b h w c -> b (h w) 1 c") for layer in (self.q, self.k, self.v))
        y = attend(q, k, v)
        return x + self.proj_out(rearrange(y, "b (h w) c -> b h w c", h=x.shape[1]))


def _norm(width: int, groups: int, modulation: int, dtype: DTypeLike | None) -> GroupNorm | SpatialNorm:
    return SpatialNorm(width, groups, modulation, dtype) if modulation else GroupNorm(width, groups)


def _normed(norm: nnx.Module, x: Array, codes: Array | None) -> Array:
    normed: Array = norm(x) if codes is None else norm(x, codes)
    return normed


def halve(x: Array) -> Array:
    """Mean over 2x2 positions."""
    return reduce(x, "b (h s) (w t) c -> b h w c", "mean", s=2, t=2)


def double(x: Array) -> Array:
    """Every position four times."""
    return repeat(x, "b h w c -> b (h s) (w t) c", s=2, t=2)
