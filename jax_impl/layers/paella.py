"""Layers of Paella's tokenizer (Rampas et al. 2022). Arrays are NHWC."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from jax_impl.layers.convolution import Conv
from jax_impl.layers.dense import Linear, to_weights
from jax_impl.layers.initial import NO_KEYS, ZEROS
from jax_impl.layers.norms import LayerNorm

EPSILON = 1e-6


class ModulatedBlock(nnx.Module):
    """A depthwise 3x3 convolution, then two dense layers, each part with a shortcut: (B, h, w, C) -> the
    same. Six learned numbers, initially zero, scale and shift the inputs and scale the outputs of both
    parts."""

    def __init__(self, width: int) -> None:
        self.gammas = nnx.Param(jnp.zeros(6))
        self.norm = LayerNorm(width, EPSILON, scale=False, bias=False)
        self.depthwise = EdgePaddedDepthwise(width)
        self.channelwise = nnx.Dict({"0": Linear(width, 4 * width), "2": Linear(4 * width, width)})

    def __call__(self, x: Array) -> Array:
        g = self.gammas[...]
        x = x + self.depthwise(self.norm(x) * (1 + g[0]) + g[1]) * g[2]
        y = self.channelwise["0"](self.norm(x) * (1 + g[3]) + g[4])
        return x + self.channelwise["2"](jax.nn.gelu(y, approximate=False)) * g[5]


class EdgePaddedDepthwise(Conv):
    """Depthwise 3x3 convolution with replicated edges: (B, h, w, C) -> the same."""

    def __init__(self, width: int) -> None:
        super().__init__(width, width, (3, 3), padding="VALID", groups=width)

    def __call__(self, x: Array) -> Array:  # type: ignore[override]  # nnx's takes a sharding, too
        return super().__call__(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge"))


class Halving(Conv):
    """4x4 convolution of stride 2: (B, h, w, I) -> (B, h / 2, w / 2, O)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, (4, 4), 2, ((1, 1), (1, 1)))


class Doubling(nnx.ConvTranspose):
    """Transposed 4x4 convolution of stride 2: (B, h, w, I) -> (B, 2 h, 2 w, O)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(
            inputs,
            outputs,
            (4, 4),
            (2, 2),
            padding=((2, 2), (2, 2)),
            transpose_kernel=True,
            kernel_init=ZEROS,
            promote_dtype=to_weights,
            rngs=NO_KEYS,
        )
