"""Gated feed-forward layers (Shazeer 2020, "GLU Variants Improve Transformer"): (..., C) -> (..., C)."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from jax_impl.layers.dense import Linear
from jax_impl.layers.dropout import Dropout
from jax_impl.layers.norms import GammaLayerNorm


class SwiGLU(nnx.Module):
    """w2(silu(w1 x) * w3 x), without biases."""

    def __init__(self, width: int, inner: int, *, rate: float = 0.0) -> None:
        self.w1 = Linear(width, inner, use_bias=False)
        self.w2 = Linear(inner, width, use_bias=False)
        self.w3 = Linear(width, inner, use_bias=False)
        self.dropout = Dropout(rate)

    def __call__(self, x: Array, noise: Array | None = None) -> Array:
        """`noise` (..., inner) is uniform, for dropout."""
        return self.w2(self.dropout(jax.nn.silu(self.w1(x)) * self.w3(x), noise))


class GEGLU(nnx.Dict):
    """LayerNorm, dense layer, the second half times the GELU of the first, LayerNorm, dense layer; no biases.

    Modules are numbered as in muse-maskgit-pytorch.
    """

    def __init__(self, width: int, inner: int, eps: float, *, rate: float = 0.0) -> None:
        super().__init__(
            {
                "0": GammaLayerNorm(width, eps),
                "1": Linear(width, 2 * inner, use_bias=False),
                "3": GammaLayerNorm(inner, eps),
                "4": Linear(inner, width, use_bias=False),
                "dropout": Dropout(rate),
            }
        )

    def __call__(self, x: Array, noise: Array | None = None) -> Array:
        """`noise` (..., inner) is uniform, for dropout."""
        y, gate = jnp.split(self["1"](self["0"](x)), 2, -1)
        y = self["3"](gate * jax.nn.gelu(y, approximate=False))
        return self["4"](self["dropout"](y, noise))
