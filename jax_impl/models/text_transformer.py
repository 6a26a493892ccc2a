"""The x-transformers encoder of SUNDAE on text: ScaleNorm, gated feed-forward layers, and rotary
positions that also rotate values."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from dioscuri.families.sundae.plan import EPS, FEED_FORWARD, DenoiserPlan, text_angles
from jax_impl.layers.attention import attend, split_heads
from jax_impl.layers.dense import Linear
from jax_impl.layers.norms import LayerNorm, ScaleNorm
from jax_impl.layers.rotary import rotate
from jax_impl.layers.stack import apply_layers


class TextEncoder(nnx.Module):
    """Alternating attention and feed-forward layers: (B, L, C) -> (B, L, C)."""

    def __init__(self, plan: DenoiserPlan, depth: int, *, checkpoint: bool) -> None:
        options = plan.options
        kinds = (TextAttention, TextFeedForward)
        self.layers = nnx.List([TextLayer(plan, kinds[i % 2]) for i in range(2 * depth)])
        self.length = plan.n_tokens if options.use_rotary else 0
        self.checkpoint = checkpoint

    def __call__(self, x: Array) -> Array:
        cos = sin = None
        if self.length:
            table, dtype = text_angles(self.length), jnp.promote_types(x.dtype, jnp.float32)
            cos, sin = (jnp.asarray(f(table), dtype) for f in (np.cos, np.sin))
        per_layer = [()] * len(self.layers)
        return apply_layers(self.layers, x, (cos, sin), per_layer, checkpoint=self.checkpoint)[0]


class TextLayer(nnx.Dict):
    """x + function(norm(x)); the norm is named 0.0, the function 1."""

    def __init__(self, plan: DenoiserPlan, kind: Any) -> None:
        d = plan.options.dim
        norm = ScaleNorm(d) if plan.options.use_scalenorm else LayerNorm(d, EPS)
        layers: Any = {"0": nnx.Dict({"0": norm}), "1": kind(plan)}
        super().__init__(layers)

    def __call__(self, x: Array, cos: Array | None, sin: Array | None) -> tuple[Array, None]:
        return x + self["1"](self["0"]["0"](x), cos, sin), None


class TextAttention(nnx.Module):
    """Self-attention: (B, L, C) -> (B, L, C)."""

    def __init__(self, plan: DenoiserPlan) -> None:
        d, inner = plan.options.dim, plan.attention_width
        self.to_q = Linear(d, inner, use_bias=False)
        self.to_k = Linear(d, inner, use_bias=False)
        self.to_v = Linear(d, inner, use_bias=False)
        self.to_out = Linear(inner, d)
        self.heads = plan.options.nb_heads

    def __call__(self, x: Array, cos: Array | None, sin: Array | None) -> Array:
        heads = [split_heads(project(x), self.heads) for project in (self.to_q, self.to_k, self.to_v)]
        if cos is not None and sin is not None:
            heads = [rotate(y, cos, sin, halves=True) for y in heads]
        return self.to_out(attend(*heads))


class TextFeedForward(nnx.Module):
    """Dense layer, gate or GELU, dense layer: (B, L, C) -> (B, L, C)."""

    def __init__(self, plan: DenoiserPlan) -> None:
        d, gated = plan.options.dim, plan.options.use_glu
        first = Linear(d, FEED_FORWARD * d * (1 + gated))
        self.net: Any = nnx.Dict(
            {
                "0": nnx.Dict({"proj" if gated else "0": first}),
                "3": Linear(FEED_FORWARD * d, d),
            }
        )
        self.gated = gated

    def __call__(self, x: Array, cos: Array | None, sin: Array | None) -> Array:
        """The positions are not used."""
        del cos, sin
        y = self.net["0"]["proj" if self.gated else "0"](x)
        if not self.gated:
            return self.net["3"](jax.nn.gelu(y, approximate=False))
        y, gate = jnp.split(y, 2, -1)
        return self.net["3"](y * jax.nn.gelu(gate, approximate=False))
