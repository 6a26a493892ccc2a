"""The encoder of x-transformers that SUNDAE on text is made of: ScaleNorm, gated feed-forward layers, rotary
positions that turn values, too."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from dioscuri.families.sundae.plan import EPS, FEED_FORWARD, DenoiserPlan, text_angles
from jax_impl.layers.attention import attend, split_heads
from jax_impl.layers.dense import Dense
from jax_impl.layers.norms import LayerNorm, ScaleNorm
from jax_impl.layers.rotary import rotate
from jax_impl.layers.stack import apply_layers

Dtype = DTypeLike | None


class TextEncoder(nnx.Module):
    """Layers in turn attention and feed-forward: (B, L, C) -> (B, L, C)."""

    def __init__(self, plan: DenoiserPlan, depth: int, dtype: Dtype, *, checkpoint: bool) -> None:
        options = plan.options
        kinds = (TextAttention, TextFeedForward)
        self.layers = nnx.List([TextLayer(plan, kinds[i % 2], dtype) for i in range(2 * depth)])
        self.length = plan.n_tokens if options.use_rotary else 0
        self.checkpoint = checkpoint

    def __call__(self, x: Array) -> Array:
        cos = sin = None
        if self.length:
            table, dtype = text_angles(self.length), jnp.promote_types(x.dtype, jnp.float32)
            cos, sin = (jnp.asarray(f(table), dtype) for f in (np.cos, np.sin))
        own = [()] * len(self.layers)
        return apply_layers(self.layers, x, (cos, sin), own, checkpoint=self.checkpoint)[0]


class TextLayer(nnx.Dict):
    """x + function(norm); the norm is 0.0, the function 1."""

    def __init__(self, plan: DenoiserPlan, kind: type[nnx.Module], dtype: Dtype) -> None:
        d = plan.options.dim
        norm = ScaleNorm(d) if plan.options.use_scalenorm else LayerNorm(d, EPS, bias=True)
        super().__init__({"0": nnx.Dict({"0": norm}), "1": kind(plan, dtype)})

    def __call__(self, x: Array, cos: Array | None, sin: Array | None) -> tuple[Array, None]:
        return x + self["1"](self["0"]["0"](x), cos, sin), None


class TextAttention(nnx.Module):
    """Self-attention: (B, L, C) -> (B, L, C)."""

    def __init__(self, plan: DenoiserPlan, dtype: Dtype) -> None:
        d, inner = plan.options.dim, plan.attention_width
        self.to_q = Dense(d, inner, dtype=dtype)
        self.to_k = Dense(d, inner, dtype=dtype)
        self.to_v = Dense(d, inner, dtype=dtype)
        self.to_out = Dense(inner, d, bias=True, dtype=dtype)
        self.heads = plan.options.nb_heads

    def __call__(self, x: Array, cos: Array | None, sin: Array | None) -> Array:
        heads = [split_heads(part(x), self.heads) for part in (self.to_q, self.to_k, self.to_v)]
        if cos is not None and sin is not None:
            heads = [rotate(y, cos, sin, halves=True) for y in heads]
        return self.to_out(attend(*heads))


class TextFeedForward(nnx.Module):
    """Dense layer, gate or GELU, dense layer: (B, L, C) -> (B, L, C)."""

    def __init__(self, plan: DenoiserPlan, dtype: Dtype) -> None:
        d, gated = plan.options.dim, plan.options.use_glu
        first = Dense(d, FEED_FORWARD * d * (1 + gated), bias=True, dtype=dtype)
        self.net = nnx.Dict(
            {
                "0": nnx.Dict({"proj" if gated else "0": first}),
                "3": Dense(FEED_FORWARD * d, d, bias=True, dtype=dtype),
            }
        )
        self.gated = gated

    def __call__(self, x: Array, cos: Array | None, sin: Array | None) -> Array:
        """Positions are the attention's."""
        del cos, sin
        y = self.net["0"]["proj" if self.gated else "0"](x)
        if not self.gated:
            return self.net["3"](jax.nn.gelu(y, approximate=False))
        y, gate = jnp.split(y, 2, -1)
        return self.net["3"](y * jax.nn.gelu(gate, approximate=False))
