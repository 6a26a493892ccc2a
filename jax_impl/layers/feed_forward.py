"""Gated feed-forward layers (Shazeer 2020, "GLU Variants Improve Transformer"): (..., C) -> (..., C)."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from jax_impl.layers.dense import Dense
from jax_impl.layers.dropout import dropout
from jax_impl.layers.norms import GammaLayerNorm


class SwiGLU(nnx.Module):
    """w2(silu(w1 x) * w3 x), without biases."""

    def __init__(self, width: int, inner: int, *, rate: float = 0.0, dtype: DTypeLike | None = None) -> None:
        self.w1 = Dense(width, inner, dtype=dtype)
        self.w2 = Dense(inner, width, dtype=dtype)
        self.w3 = Dense(width, inner, dtype=dtype)
        self.rate = rate

    def __call__(self, x: Array, noise: Array | None = None) -> Array:
        """`noise` (..., inner) is uniform, for dropout."""
        return self.w2(dropout(jax.nn.silu(self.w1(x)) * self.w3(x), noise, self.rate))


class GEGLU(nnx.Dict):
    """LayerNorm, dense layer, the second half times the GELU of the first, LayerNorm, dense layer; no biases.

    Modules are named by their place, as in muse-maskgit-pytorch.
    """

    def __init__(
        self, width: int, inner: int, eps: float, *, rate: float = 0.0, dtype: DTypeLike | None = None
    ) -> None:
        super().__init__(
            {
                "0": GammaLayerNorm(width, eps),
                "1": Dense(width, 2 * inner, dtype=dtype),
                "3": GammaLayerNorm(inner, eps),
                "4": Dense(inner, width, dtype=dtype),
            }
        )
        self.rate = rate

    def __call__(self, x: Array, noise: Array | None = None) -> Array:
        """`noise` (..., inner) is uniform, for dropout."""
        y, gate = jnp.split(self["1"](self["0"](x)), 2, -1)
        y = self["3"](gate * jax.nn.gelu(y, approximate=False))
        return self["4"](dropout(y, noise, self.rate))
