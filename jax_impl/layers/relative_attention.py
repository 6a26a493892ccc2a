"""Attention on a square grid with content-scaled factorised relative bias (Metroplex)."""

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax import Array, lax
from jax.typing import DTypeLike

from common.plans.metroplex import SelfAttention
from jax_impl.layers.convolution import Conv2d
from jax_impl.layers.norms import ChannelNorm
from jax_impl.layers.precision import at_least_float32, cast


class RelativeAttention(nnx.Module):
    """Attention of maps (B, L, L, C) to themselves or, with `cross`, to another map, unprojected.

    The logits q k^T gain |q| r1[y' - y] r2[x' - x]; no gradient flows through |q|. `gated`: the result begins
    as zeros.
    """

    def __init__(
        self,
        plan: SelfAttention,
        dtype: DTypeLike | None = None,
        *,
        cross: bool = False,
        gated: bool = True,
    ) -> None:
        width = plan.width
        if cross:
            self.query = Conv2d(width, width, dtype=dtype)
        else:
            self.qkv = Conv2d(width, 3 * width, dtype=dtype)
        self.out = Conv2d(width, width, dtype=dtype)
        self.row_bias = nnx.Param(jnp.zeros((plan.heads, 2 * plan.side - 1)))
        self.column_bias = nnx.Param(jnp.zeros((plan.heads, 2 * plan.side - 1)))
        self.norm = ChannelNorm(width) if plan.norm else None
        if gated:
            self.gate = nnx.Param(jnp.zeros(1))
        self.plan, self.cross, self.gated = plan, cross, gated

    def __call__(self, x: Array, context: Array | None = None) -> Array:
        """What attention to `context`, or to x, adds: (B, L, L, C)."""
        x = x if self.norm is None else self.norm(x)
        q, k, v = (self.query(x), context, context) if self.cross else jnp.split(self.qkv(x), 3, -1)
        q, k, v = (rearrange(maps, "b h w (n k) -> b n (h w) k", n=self.plan.heads) for maps in (q, k, v))
        length = jnp.linalg.vector_norm(at_least_float32(lax.stop_gradient(q)), axis=-1, keepdims=True)
        logits = at_least_float32(q @ k.swapaxes(-2, -1)) + length * self._bias()
        weights = jax.nn.softmax(logits * (self.plan.width // self.plan.heads) ** -0.5, axis=-1)
        y = rearrange(weights.astype(v.dtype) @ v, "b n (h w) k -> b h w (n k)", h=self.plan.side)
        return scaled(self.out(y), self.gate[...] if self.gated else None)

    def _bias(self) -> Array:
        """Product of the rows' and columns' biases (1, N, L L, L L)."""
        side = self.plan.side
        position = jnp.arange(side)
        offset = rearrange(position, "s -> 1 s") - rearrange(position, "y -> y 1") + side - 1
        rows = rearrange(self.row_bias[...][:, offset], "n y s -> 1 n y 1 s 1")
        columns = rearrange(self.column_bias[...][:, offset], "n x t -> 1 n 1 x 1 t")
        return rearrange(rows * columns, "b n y x s t -> b n (y x) (s t)")


def scaled(y: Array, gate: Array | None) -> Array:
    """y times its gate (1,), if it has one."""
    return y if gate is None else y * rearrange(cast(gate, y.dtype), "g -> 1 1 1 g")
