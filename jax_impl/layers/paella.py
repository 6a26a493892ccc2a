"""Layers of Paella's tokenizer (Rampas et al. 2022). Arrays are NHWC."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, lax
from jax.typing import DTypeLike

from jax_impl.layers.dense import Dense, broadcast
from jax_impl.layers.norms import LayerNorm
from jax_impl.layers.precision import cast

EPSILON = 1e-6

Dtype = DTypeLike | None

_LAYOUTS = ("NHWC", "HWIO", "NHWC")


class ModulatedBlock(nnx.Module):
    """3x3 convolutions of single channels, then two dense layers, each beside a shortcut: (B, h, w, C) -> the
    same. Six learned numbers scale and shift what the parts see and give; they begin as zeros."""

    def __init__(self, width: int, dtype: Dtype = None) -> None:
        self.gammas = nnx.Param(jnp.zeros(6))
        self.norm = LayerNorm(width, EPSILON, scale=False)
        self.depthwise = EdgePaddedDepthwise(width, dtype)
        self.channelwise = nnx.Dict(
            {
                "0": Dense(width, 4 * width, bias=True, dtype=dtype),
                "2": Dense(4 * width, width, bias=True, dtype=dtype),
            }
        )

    def __call__(self, x: Array) -> Array:
        g = cast(self.gammas[...], x.dtype)
        x = x + self.depthwise(self.norm(x) * (1 + g[0]) + g[1]) * g[2]
        y = self.channelwise["0"](self.norm(x) * (1 + g[3]) + g[4])
        return x + self.channelwise["2"](jax.nn.gelu(y, approximate=False)) * g[5]


class EdgePaddedDepthwise(nnx.Module):
    """3x3 convolution of every channel by itself, the edges repeated outside: (B, h, w, C) -> the same."""

    def __init__(self, width: int, dtype: Dtype = None) -> None:
        self.kernel = nnx.Param(jnp.zeros((3, 3, 1, width)))
        self.bias = nnx.Param(jnp.zeros(width))
        self.dtype = dtype

    def __call__(self, x: Array) -> Array:
        x, kernel, bias = (cast(array, self.dtype) for array in (x, self.kernel[...], self.bias[...]))
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
        groups, edges = x.shape[-1], ((0, 0), (0, 0))
        y = lax.conv_general_dilated(
            x, kernel, (1, 1), edges, dimension_numbers=_LAYOUTS, feature_group_count=groups
        )
        return y + broadcast(bias, y)


class Halving(nnx.Module):
    """4x4 convolution of stride 2: (B, h, w, I) -> (B, h / 2, w / 2, O)."""

    def __init__(self, inputs: int, outputs: int, dtype: Dtype = None) -> None:
        self.kernel = nnx.Param(jnp.zeros((4, 4, inputs, outputs)))
        self.bias = nnx.Param(jnp.zeros(outputs))
        self.dtype = dtype

    def __call__(self, x: Array) -> Array:
        x, kernel, bias = (cast(array, self.dtype) for array in (x, self.kernel[...], self.bias[...]))
        y = lax.conv_general_dilated(x, kernel, (2, 2), ((1, 1), (1, 1)), dimension_numbers=_LAYOUTS)
        return y + broadcast(bias, y)


class Doubling(nnx.Module):
    """Transposed 4x4 convolution of stride 2: (B, h, w, I) -> (B, 2 h, 2 w, O)."""

    def __init__(self, inputs: int, outputs: int, dtype: Dtype = None) -> None:
        self.kernel = nnx.Param(jnp.zeros((4, 4, outputs, inputs)))
        self.bias = nnx.Param(jnp.zeros(outputs))
        self.dtype = dtype

    def __call__(self, x: Array) -> Array:
        x, kernel, bias = (cast(array, self.dtype) for array in (x, self.kernel[...], self.bias[...]))
        edges = ((2, 2), (2, 2))
        y = lax.conv_transpose(x, kernel, (2, 2), edges, dimension_numbers=_LAYOUTS, transpose_kernel=True)
        return y + broadcast(bias, y)
