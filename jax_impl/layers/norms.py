"""Norms over the last axis. Their statistics are in at least float32; the output has the input's dtype.

nnx's norms compute the variance as the mean of squared differences, which is accurate.
"""

import jax.numpy as jnp
from flax import nnx
from jax import Array, lax

from jax_impl.layers.dense import broadcast
from jax_impl.layers.initial import NO_KEYS
from jax_impl.layers.precision import at_least_float32


class LayerNorm(nnx.LayerNorm):
    """(..., C) -> the same. nnx multiplies the scale into the inverse deviation of every position first: its
    gradient moves more memory."""

    def __init__(self, width: int, eps: float, *, scale: bool = True, bias: bool = True) -> None:
        super().__init__(width, epsilon=eps, use_scale=scale, use_bias=bias, rngs=NO_KEYS)

    def __call__(self, x: Array) -> Array:  # type: ignore[override]  # nnx's takes a mask, too
        y = at_least_float32(x)
        y = rms_normalised(y - y.mean(-1, keepdims=True), self.epsilon)
        return _affine(y, self.scale, self.bias).astype(x.dtype)


class ChannelNorm(LayerNorm):
    """LayerNorm over the channels of maps, with scale and shift, eps 1e-5: (B, ..., C)."""

    def __init__(self, width: int) -> None:
        super().__init__(width, 1e-5)


class RMSNorm(nnx.RMSNorm):
    """(..., C) -> the same; see `LayerNorm`."""

    def __init__(self, width: int, eps: float, *, scale: bool = True) -> None:
        super().__init__(width, epsilon=eps, use_scale=scale, rngs=NO_KEYS)

    def __call__(self, x: Array) -> Array:  # type: ignore[override]  # nnx's takes a mask, too
        y = rms_normalised(at_least_float32(x), self.epsilon)
        return _affine(y, self.scale, None).astype(x.dtype)


class BiasedRMSNorm(RMSNorm):
    """RMSNorm with a shift per channel: (..., C)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__(width, eps)
        self.bias = nnx.Param(jnp.zeros(width))

    def __call__(self, x: Array) -> Array:  # type: ignore[override]  # nnx's takes a mask, too
        y = super().__call__(at_least_float32(x))
        return _affine(y, None, self.bias).astype(x.dtype)


class GammaLayerNorm(nnx.Module):
    """LayerNorm without bias, whose scale is called gamma in published weights: (..., C)."""

    def __init__(self, width: int, eps: float) -> None:
        self.gamma = nnx.Param(jnp.zeros(width))
        self.eps = eps

    def __call__(self, x: Array) -> Array:
        y = at_least_float32(x)
        y = rms_normalised(y - y.mean(-1, keepdims=True), self.eps)
        return _affine(y, self.gamma, None).astype(x.dtype)


class ScaleNorm(nnx.Module):
    """g x / max(|x| / sqrt(C), 1e-5) with a learned g (Nguyen and Salazar 2019, in the form
    of x-transformers): (..., C)."""

    def __init__(self, width: int) -> None:
        self.g = nnx.Param(jnp.zeros(1))
        self.width = width

    def __call__(self, x: Array) -> Array:
        y = at_least_float32(x)
        norm = _root(jnp.square(y).sum(-1, keepdims=True)) * self.width**-0.5
        return (y / jnp.maximum(norm, 1e-5) * broadcast(self.g[...], y)).astype(x.dtype)


class GlobalResponseNorm(nnx.Module):
    """Global response normalisation of ConvNeXt V2 (Woo et al. 2023, section 3).

    (B, H, W, C) -> the same. `gamma` and `beta` have the shape (1, 1, 1, C).
    """

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        self.gamma = nnx.Param(jnp.zeros((1, 1, 1, width)))
        self.beta = nnx.Param(jnp.zeros((1, 1, 1, width)))
        self.eps = eps

    def __call__(self, x: Array) -> Array:
        y = at_least_float32(x)
        norm = _root(jnp.square(y).sum((1, 2), keepdims=True))
        relative = norm / (norm.mean(-1, keepdims=True) + self.eps)
        return (self.gamma[...] * (y * relative) + self.beta[...] + y).astype(x.dtype)


def make_norm(kind: str, width: int, eps: float, *, scale: bool = True, bias: bool = False) -> nnx.Module:
    """A norm of kind 'layernorm', or 'rmsnorm', which never has a bias here."""
    if kind == "rmsnorm":
        return RMSNorm(width, eps, scale=scale)
    return LayerNorm(width, eps, scale=scale, bias=bias and scale)


def rms_normalised(x: Array, eps: float) -> Array:
    """x / sqrt(mean square over the last axis + eps), in at least float32."""
    y = at_least_float32(x)
    return (y * lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + eps)).astype(x.dtype)


def _affine(x: Array, scale: nnx.Param | None, bias: nnx.Param | None) -> Array:
    x = x if scale is None else x * broadcast(scale[...], x)
    return x if bias is None else x + broadcast(bias[...], x)


def unit(x: Array) -> Array:
    """x / max(|x|, 1e-12), with the Euclidean norm along the last axis."""
    return x / jnp.maximum(_root(jnp.square(x).sum(-1, keepdims=True)), 1e-12)


def _root(x: Array) -> Array:
    """Square root with gradient 0 at 0, as in PyTorch's norms."""
    return jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 1)), 0)


def modulated(x: Array, scale: Array, shift: Array) -> Array:
    """x (1 + scale) + shift: (B, ..., C), (B, C), (B, C) -> (B, ..., C) (adaptive norm, Peebles and Xie)."""
    shape = (len(x), *(1,) * (x.ndim - 2), x.shape[-1])
    return x * (1 + scale.reshape(shape)) + shift.reshape(shape)
