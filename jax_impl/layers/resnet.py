"""Residual blocks of image tokenizers. Arrays are NHWC."""

import jax
import jax.numpy as jnp
from einops import rearrange, reduce, repeat
from flax import nnx
from jax import Array, lax

from jax_impl.layers.attention import attend
from jax_impl.layers.convolution import Conv
from jax_impl.layers.dense import Linear, broadcast
from jax_impl.layers.dropout import Dropout
from jax_impl.layers.initial import NO_KEYS
from jax_impl.layers.precision import at_least_float32

EPSILON = 1e-6


class Halved(Conv):
    """3x3 convolution of stride 2, padded right and below only: (B, H, W, I) -> (B, H / 2, W / 2, O)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, (3, 3), 2, ((0, 1), (0, 1)))


class GroupNorm(nnx.GroupNorm):
    """Over the grid and the channels of a group (Wu and He 2018): (B, H, W, C) -> the same.

    nnx repeats the statistics for every channel: on a CPU its gradient takes up to twice as long.
    """

    def __init__(self, width: int, groups: int, eps: float = EPSILON) -> None:
        super().__init__(width, groups, epsilon=eps, use_fast_variance=False, rngs=NO_KEYS)

    def __call__(self, x: Array) -> Array:  # type: ignore[override]  # nnx's takes a mask, too
        y = rearrange(at_least_float32(x), "b h w (g c) -> b h w g c", g=self.num_groups)
        y = y - y.mean((1, 2, 4), keepdims=True)
        y = y * lax.rsqrt(jnp.square(y).mean((1, 2, 4), keepdims=True) + self.epsilon)
        y = rearrange(y, "b h w g c -> b h w (g c)")
        assert self.scale is not None
        assert self.bias is not None
        return (y * broadcast(self.scale[...], y) + broadcast(self.bias[...], y)).astype(x.dtype)


class SpatialNorm(nnx.Module):
    """A group norm whose scales and shifts are 1x1 convolutions of the codes, which lie on the same or a
    coarser grid (Zheng et al. 2022, MoVQ, equation 5)."""

    def __init__(self, width: int, groups: int, codes: int) -> None:
        self.norm_layer = group_norm(width, groups)
        self.conv_y = Linear(codes, width)
        self.conv_b = Linear(codes, width)

    def __call__(self, x: Array, codes: Array) -> Array:
        """(B, H, W, C) and (B, h, w, D) -> (B, H, W, C)."""
        factor, summand = (self._spread(layer(codes), x) for layer in (self.conv_y, self.conv_b))
        return self.norm_layer(x) * factor + summand

    def _spread(self, y: Array, like: Array) -> Array:
        """Nearest-neighbour upsampling, after the 1x1 convolution, with which it commutes."""
        s = like.shape[1] // y.shape[1]
        return repeat(y, "b h w c -> b (h s) (w t) c", s=s, t=s)


class ResnetBlock(nnx.Module):
    """Two norms, SiLUs and 3x3 convolutions with a shortcut: (B, H, W, I) -> (B, H, W, O).

    `legacy_shortcut`: if the width changes, the shortcut reads the convolutions' output instead of the input.
    `modulation`: channels of the codes that modulate the norms; 0: no modulation.
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
    ) -> None:
        self.norm1 = _norm(inputs, groups, modulation)
        self.conv1 = Conv(inputs, outputs, (3, 3), use_bias=bias)
        self.norm2 = _norm(outputs, groups, modulation)
        self.dropout = Dropout(rate)
        self.conv2 = Conv(outputs, outputs, (3, 3), use_bias=bias)
        self.legacy_shortcut = legacy_shortcut
        seen = outputs if legacy_shortcut else inputs
        changes = inputs != outputs
        self.nin_shortcut = Linear(seen, outputs, use_bias=bias) if changes else None

    def __call__(self, x: Array, uniform: Array | None = None, codes: Array | None = None) -> Array:
        """`uniform` (B, H, W, O) is for dropout."""
        y = self.conv1(jax.nn.silu(_normed(self.norm1, x, codes)))
        y = jax.nn.silu(_normed(self.norm2, y, codes))
        y = self.conv2(self.dropout(y, uniform))
        if self.nin_shortcut is None:
            return x + y
        return y + self.nin_shortcut(y if self.legacy_shortcut else x)


class GridAttention(nnx.Module):
    """Single-head attention among the positions of a grid, with a shortcut: (B, H, W, C) -> the same."""

    def __init__(self, width: int, *, groups: int, modulation: int = 0) -> None:
        self.norm = _norm(width, groups, modulation)
        self.q = Linear(width, width)
        self.k = Linear(width, width)
        self.v = Linear(width, width)
        self.proj_out = Linear(width, width)

    def __call__(self, x: Array, codes: Array | None = None) -> Array:
        y = _normed(self.norm, x, codes)
        q, k, v = (rearrange(layer(y), "b h w c -> b (h w) 1 c") for layer in (self.q, self.k, self.v))
        y = attend(q, k, v)
        return x + self.proj_out(rearrange(y, "b (h w) c -> b h w c", h=x.shape[1]))


def group_norm(width: int, groups: int) -> GroupNorm:
    """The group norm of all tokenizers."""
    return GroupNorm(width, groups)


def _norm(width: int, groups: int, modulation: int) -> GroupNorm | SpatialNorm:
    return SpatialNorm(width, groups, modulation) if modulation else group_norm(width, groups)


def _normed(norm: nnx.Module, x: Array, codes: Array | None) -> Array:
    normed: Array = norm(x) if codes is None else norm(x, codes)
    return normed


def halve(x: Array) -> Array:
    """Mean over 2x2 positions."""
    return reduce(x, "b (h s) (w t) c -> b h w c", "mean", s=2, t=2)


def double(x: Array) -> Array:
    """Every position repeated 2x2 times."""
    return repeat(x, "b h w c -> b (h s) (w t) c", s=2, t=2)
