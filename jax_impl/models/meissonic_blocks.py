"""Blocks of Meissonic's transformer, those of Flux: the states of a text (B, S, C) and a picture (B, L, C)
attend to each other. Adaptive norms have the activated embedding (B, C) of time and condition as input."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax import Array

from dioscuri.families.maskgit.plan import TransformerPlan
from jax_impl.layers.attention import attend, split_heads
from jax_impl.layers.dense import Linear
from jax_impl.layers.norms import RMSNorm, make_norm, modulated
from jax_impl.layers.rotary import rotate


class FeedForward(nnx.Module):
    """Dense layer, GELU (tanh form), dense layer: (B, L, C) -> (B, L, C)."""

    def __init__(self, width: int, inner: int) -> None:
        first = nnx.Dict({"proj": Linear(width, inner)})
        self.net = nnx.Dict({"0": first, "2": Linear(inner, width)})

    def __call__(self, x: Array) -> Array:
        first: nnx.Dict = self.net["0"]  # type: ignore[assignment] # not a tensor
        return self.net["2"](jax.nn.gelu(first["proj"](x), approximate=True))


class JointBlock(nnx.Module):
    """Attention of both, then a feed-forward layer for each: (text, picture) -> (text, picture)."""

    def __init__(self, plan: TransformerPlan) -> None:
        C = plan.options.hidden_size
        self.norm1 = nnx.Dict({"linear": Linear(C, 6 * C)})
        self.norm1_context = nnx.Dict({"linear": Linear(C, 6 * C)})
        self.attn = JointAttention(plan)
        self.ff = FeedForward(C, plan.inner)
        self.ff_context = FeedForward(C, plan.inner)
        self.norm = make_norm("layernorm", C, plan.eps, scale=False)

    def __call__(
        self, states: tuple[Array, Array], embedded: Array, cos: Array, sin: Array
    ) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        """Both states, twice; cosines and sines are those of `rotate`."""
        context, x = states
        for_context, for_x = (
            jnp.split(self.norm1_context["linear"](embedded), 6, -1),
            jnp.split(self.norm1["linear"](embedded), 6, -1),
        )
        normed_context = modulated(self.norm(context), for_context[1], for_context[0])
        normed_x = modulated(self.norm(x), for_x[1], for_x[0])
        attended_context, attended_x = self.attn(normed_context, normed_x, cos, sin)
        context = self._added(context, attended_context, for_context, self.ff_context)
        x = self._added(x, attended_x, for_x, self.ff)
        return (context, x), (context, x)

    def _added(
        self, x: Array, attended: Array, modulation: Sequence[Array], feed_forward: FeedForward
    ) -> Array:
        """x plus both branches; `modulation` has shift, scale and gate of attention, then of the layer."""
        _, _, gate, shift, scale, last_gate = modulation
        x = x + gated(gate, attended)
        return x + gated(last_gate, feed_forward(modulated(self.norm(x), scale, shift)))


class SharedBlock(nnx.Module):
    """Attention beside a feed-forward layer, of text and picture (B, S + L, C) -> the same, twice."""

    def __init__(self, plan: TransformerPlan) -> None:
        C = plan.options.hidden_size
        self.norm = nnx.Dict({"linear": Linear(C, 3 * C)})
        self.proj_mlp = Linear(C, plan.inner)
        self.proj_out = Linear(C + plan.inner, C)
        self.attn = SelfAttention(plan)
        self.layer_norm = make_norm("layernorm", C, plan.eps, scale=False)

    def __call__(self, x: Array, embedded: Array, cos: Array, sin: Array) -> tuple[Array, Array]:
        shift, scale, gate = jnp.split(self.norm["linear"](embedded), 3, -1)
        y = modulated(self.layer_norm(x), scale, shift)
        inner = jax.nn.gelu(self.proj_mlp(y), approximate=True)
        x = x + gated(gate, self.proj_out(jnp.concatenate([self.attn(y, cos, sin), inner], -1)))
        return x, x


class SelfAttention(nnx.Module):
    """Attention with rotary positions; a head's queries and keys are RMS-normed: (B, L, C) -> (B, L, C)."""

    def __init__(self, plan: TransformerPlan) -> None:
        C, self.heads = plan.options.hidden_size, plan.options.num_attention_heads
        self.to_q, self.to_k, self.to_v = (Linear(C, C) for _ in range(3))
        self.norm_q, self.norm_k = (RMSNorm(plan.head_dim, plan.eps) for _ in range(2))

    def project(self, x: Array) -> tuple[Array, Array, Array]:
        """Queries, keys and values (B, L, N, K)."""
        q, k, v = (split_heads(layer(x), self.heads) for layer in (self.to_q, self.to_k, self.to_v))
        return self.norm_q(q), self.norm_k(k), v

    def __call__(self, x: Array, cos: Array, sin: Array) -> Array:
        q, k, v = self.project(x)
        return attend(rotate(q, cos, sin), rotate(k, cos, sin), v)


class JointAttention(SelfAttention):
    """The same of a text and a picture, each with its weights: (B, S, C), (B, L, C) -> the same."""

    def __init__(self, plan: TransformerPlan) -> None:
        super().__init__(plan)
        C = plan.options.hidden_size
        self.add_q_proj, self.add_k_proj, self.add_v_proj = (Linear(C, C) for _ in range(3))
        self.to_out = nnx.List([Linear(C, C)])
        self.to_add_out = Linear(C, C)
        self.norm_added_q, self.norm_added_k = (RMSNorm(plan.head_dim, plan.eps) for _ in range(2))

    def __call__(  # type: ignore[override]  # two sequences
        self, context: Array, x: Array, cos: Array, sin: Array
    ) -> tuple[Array, Array]:
        layers = (self.add_q_proj, self.add_k_proj, self.add_v_proj)
        q, k, v = (split_heads(layer(context), self.heads) for layer in layers)
        pairs = zip((self.norm_added_q(q), self.norm_added_k(k), v), self.project(x), strict=True)
        q, k, v = (jnp.concatenate(pair, 1) for pair in pairs)
        y = attend(rotate(q, cos, sin), rotate(k, cos, sin), v)
        S = context.shape[1]
        return self.to_add_out(y[:, :S]), self.to_out[0](y[:, S:])


def gated(gate: Array, y: Array) -> Array:
    """gate y: (B, C), (B, L, C) -> (B, L, C)."""
    return rearrange(gate, "b c -> b 1 c") * y
