"""Convolution, pooling and unpooling. Arrays are NHWC, kernels HWIO.

`convolution` also makes those of sounds (B, L, C) and of clips (B, T, H, W, C).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax import Array, lax

from jax_impl.layers.dense import Linear, broadcast, to_weights
from jax_impl.layers.initial import NO_KEYS, ZEROS

LEAK = 0.1
"""Slope of the leaky ReLU after pooling and unpooling convolutions."""

_NHWC = ("NHWC", "HWIO", "NHWC")
_LOOP = ContextVar("loop", default=False)
"""Whether the body of a loop is being traced."""

_Padding = Sequence[tuple[int, int]]


class Conv(nnx.Conv):
    """(B, ..., I) -> (B, ..., O). It has as many axes as its kernel and begins as zeros."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: tuple[int, ...],
        strides: int = 1,
        padding: str | Sequence[tuple[int, int]] = "SAME",
        *,
        use_bias: bool = True,
        groups: int = 1,
    ) -> None:
        super().__init__(
            in_features,
            out_features,
            kernel_size,
            strides,
            padding=padding,
            feature_group_count=groups,
            use_bias=use_bias,
            kernel_init=ZEROS,
            promote_dtype=to_weights,
            conv_general_dilated=_convolve,
            rngs=NO_KEYS,
        )


def convolution(in_channels: int, out_channels: int, kernel_size: tuple[int, ...]) -> nnx.Module:
    """A convolution of stride 1 with bias that keeps the extent: (B, ..., I) -> (B, ..., O).

    It has as many axes as its kernel; a 1x1 convolution is a matrix product. On an axis of even
    length the extra zero comes after.
    """
    if prod(kernel_size) == 1:
        return Linear(in_channels, out_channels)
    return Conv(in_channels, out_channels, kernel_size)


class Pool(Conv):
    """Convolution with kernel = stride, leaky ReLU: (B, H, W, I) -> (B, H / stride, W / stride, O)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__(in_channels, out_channels, (stride, stride), stride)

    def __call__(self, x: Array) -> Array:  # type: ignore[override]  # nnx's takes a sharding, too
        """Patches do not overlap, so this is a matrix product."""
        s, t = self.kernel_size
        patches = rearrange(x, "b (h s) (w t) c -> b h w (s t c)", s=s, t=t)
        y = jnp.dot(patches, rearrange(self.kernel[...], "s t i o -> (s t i) o"))
        assert self.bias is not None
        return _leaky_relu(y + broadcast(self.bias[...], y))


class Unpool(nnx.Module):
    """1x1 convolution, leaky ReLU, nearest upsampling, per-pixel bias: (B, h, w, I) -> (B, s h, s w, O)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, resolution: int) -> None:
        self.conv = convolution(in_channels, out_channels, (1, 1))
        self.scale_bias = nnx.Param(jnp.zeros((1, resolution, resolution, out_channels)))
        self.stride = stride

    def __call__(self, x: Array) -> Array:
        y = rearrange(_leaky_relu(self.conv(x)), "b h w c -> b h 1 w 1 c")
        s = self.stride
        y = y + rearrange(self.scale_bias[...], "b (h s) (w t) c -> b h s w t c", s=s, t=s)
        return rearrange(y, "b h s w t c -> b (h s) (w t) c")


def _leaky_relu(x: Array) -> Array:
    """With slope LEAK also at 0, as in PyTorch: `trainable_h`, and so the first
    unpooling's input, is initially zero."""
    return jnp.where(x > 0, x, LEAK * x)


@contextmanager
def inside_loop() -> Iterator[None]:
    """Trace the body of a loop that contains gradients: on a CPU, those of plain convolutions of pictures are
    written by hand there, since XLA's are 30 times as slow. They have no forward-mode derivative."""
    token = _LOOP.set(jax.default_backend() == "cpu")
    try:
        yield
    finally:
        _LOOP.reset(token)


def _convolve(
    x: Array, kernel: Array, strides: Sequence[int], padding: str | _Padding, **options: Any
) -> Array:
    """`lax.conv_general_dilated`, or its like for loops."""
    plain = kernel.ndim == 4 and set(strides) == {1} and options["feature_group_count"] == 1
    if not plain or not _LOOP.get():
        return lax.conv_general_dilated(x, kernel, strides, padding, **options)
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], strides, padding)
    return _in_loop(x, kernel, tuple(padding))


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _in_loop(x: Array, kernel: Array, padding: _Padding) -> Array:
    """Convolution of stride 1, whose gradients are convolutions of the layout NHWC: (B, H, W, I) and
    (h, w, I, O) -> (B, H', W', O)."""
    return lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=_NHWC)


def _forward(x: Array, kernel: Array, padding: _Padding) -> tuple[Array, tuple[Array, Array]]:
    return _in_loop(x, kernel, padding), (x, kernel)


def _backward(padding: _Padding, arrays: tuple[Array, Array], grad: Array) -> tuple[Array, Array]:
    x, kernel = arrays
    size = kernel.shape[:2]
    around = tuple((k - 1 - low, k - 1 - high) for k, (low, high) in zip(size, padding, strict=True))
    x_grad = _in_loop(grad, rearrange(kernel[::-1, ::-1], "h w i o -> h w o i"), around)
    return x_grad, _kernel_gradient(x, grad, padding)


def _kernel_gradient(x: Array, grad: Array, padding: _Padding) -> Array:
    """The gradient (h, w, I, O) as a convolution of pictures whose batch is I and whose channels are B."""
    y = _in_loop(rearrange(x, "b h w i -> i h w b"), rearrange(grad, "b h w o -> h w b o"), padding)
    return rearrange(y, "i h w o -> h w i o")


_in_loop.defvjp(_forward, _backward)
