"""Attention on a grid with content-scaled factorised relative bias (Metroplex)."""

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax import Array, lax

from dioscuri.families.latent_models.grids import AXES
from dioscuri.families.metroplex.blocks import SelfAttention
from jax_impl.layers.convolution import convolution
from jax_impl.layers.dense import broadcast
from jax_impl.layers.norms import ChannelNorm
from jax_impl.layers.precision import at_least_float32


class RelativeAttention(nnx.Module):
    """Attention of maps (B, *grid, C) to themselves or, with `cross`, to another map.

    |q| r1[y' - y] r2[x' - x], with one factor per axis of the grid, is added to the logits q k^T; no gradient
    flows through |q|. `gated`: the result is initially zero.
    """

    def __init__(
        self,
        plan: SelfAttention,
        *,
        cross: bool = False,
        gated: bool = True,
    ) -> None:
        width, pointwise = plan.width, (1,) * len(plan.grid)
        if cross:
            self.query = convolution(width, width, pointwise)
        else:
            self.qkv = convolution(width, 3 * width, pointwise)
        self.out = convolution(width, width, pointwise)
        for axis, length in zip(AXES[len(plan.grid)], plan.grid, strict=True):
            setattr(self, f"{axis}_bias", nnx.Param(jnp.zeros((plan.heads, 2 * length - 1))))
        self.norm = ChannelNorm(width) if plan.norm else None
        if gated:
            self.gate = nnx.Param(jnp.zeros(1))
        self.plan, self.cross, self.gated = plan, cross, gated

    def __call__(self, x: Array, context: Array | None = None) -> Array:
        """The residual of attention to `context`, or to x: (B, *grid, C)."""
        x = x if self.norm is None else self.norm(x)
        if self.cross:
            assert context is not None
            q, k, v = self.query(x), context, context
        else:
            q, k, v = jnp.split(self.qkv(x), 3, -1)
        q, k, v = (rearrange(maps, "b ... (n k) -> b n (...) k", n=self.plan.heads) for maps in (q, k, v))
        length = jnp.linalg.vector_norm(at_least_float32(lax.stop_gradient(q)), axis=-1, keepdims=True)
        logits = at_least_float32(q @ k.swapaxes(-2, -1)) + length * self._bias()
        weights = jax.nn.softmax(logits * (self.plan.width // self.plan.heads) ** -0.5, axis=-1)
        y = rearrange(weights.astype(v.dtype) @ v, "b n l k -> b l (n k)")
        y = y.reshape(len(y), *self.plan.grid, -1)
        return scaled(self.out(y), self.gate[...] if self.gated else None)

    def _bias(self) -> Array:
        """Product of the biases of all axes (1, N, tokens, tokens)."""
        first, *others = (self._axis_bias(axis) for axis in AXES[len(self.plan.grid)])
        for other in others:
            product = rearrange(first, "n y s -> n y 1 s 1") * rearrange(other, "n x t -> n 1 x 1 t")
            first = rearrange(product, "n y x s t -> n (y x) (s t)")
        return first[None]

    def _axis_bias(self, axis: str) -> Array:
        """Bias (N, L, L) of an axis of length L."""
        bias = getattr(self, f"{axis}_bias")[...]
        length = (bias.shape[-1] + 1) // 2
        position = jnp.arange(length)
        offset = rearrange(position, "s -> 1 s") - rearrange(position, "y -> y 1") + length - 1
        return bias[:, offset]


def scaled(y: Array, gate: Array | None) -> Array:
    """y times its gate (1,), if there is one."""
    return y if gate is None else y * broadcast(gate, y)
