"""The network of Halton-MaskGIT (Besnier et al. 2025): a DiT (Peebles and Xie 2022) with RMSNorm, SwiGLU and
register tokens; the class enters through adaptive norms. See `maskgit.py` for the calling convention.

Dropout acts on attention probabilities and inside the feed-forward layers.
"""

import jax
import jax.numpy as jnp
from einops import rearrange, repeat
from flax import nnx
from jax import Array

from dioscuri.families.maskgit.plan import TransformerPlan
from jax_impl.layers.attention import attend, split_heads
from jax_impl.layers.convolution import Conv
from jax_impl.layers.dense import Embedding, Linear, PointwiseDense, tied_logits
from jax_impl.layers.dropout import Dropout
from jax_impl.layers.feed_forward import SwiGLU
from jax_impl.layers.named import Arrays, under
from jax_impl.layers.norms import BiasedRMSNorm, RMSNorm, modulated, rms_normalised
from jax_impl.layers.precision import at_least_float32
from jax_impl.layers.stack import apply_layers
from jax_impl.models.token_transformer import (
    TokenTransformer,
    is_prepared,
    self_condition_layer,
    self_conditioned,
)


class HaltonTransformer(TokenTransformer):
    """The network, which computes in its parameters' dtype.

    `checkpoint` recomputes every layer in the backward pass to save memory; `scan` compiles one layer as a
    loop over all.
    """

    def __init__(self, plan: TransformerPlan, *, checkpoint: bool = False, scan: bool = False) -> None:
        options, C = plan.options, plan.options.hidden_size
        patched, tied = options.proj > 1, plan.outputs == plan.vocab_size
        self.cls_emb = Embedding(options.num_classes + 1, C)
        self.tok_emb = Embedding(plan.vocab_size, C)
        self.pos_emb = Embedding(plan.positions, C)
        self.self_cond_to_init_embed = self_condition_layer(plan)
        self.in_proj = PatchIn(C, options.proj) if patched else None
        self.transformer = nnx.Dict(
            {"layers": nnx.List([HaltonLayer(plan) for _ in range(options.num_hidden_layers)])}
        )
        self.last_norm = LastNorm(plan)
        self.out_proj = PointwiseDense(C, C * options.proj**2, use_bias=False) if patched else None
        self.head = HaltonHead(C, plan.outputs, tied)
        self.reg_tokens = Embedding(options.register, C) if options.register else None
        self.plan, self.checkpoint, self.scan = plan, checkpoint, scan

    def prepare(self, condition: Arrays) -> dict[str, Array]:
        """Modulation of every adaptive norm by the class; empty without `label`,
        which gives the batch size."""
        if is_prepared(condition) or "label" not in condition:
            return dict(condition)
        label = self.cls_emb(jnp.minimum(condition["label"], self.plan.null_label))
        prepared = {
            f"prepared.layers.{i}": layer.prepare(label) for i, layer in enumerate(self.transformer["layers"])
        }
        return {**condition, **prepared, "prepared.last_norm": self.last_norm.prepare(label)}

    def hidden(
        self, ids: Array, condition: Arrays, noise: Arrays | None = None
    ) -> tuple[Array, dict[str, Array]]:
        """Normed states (B, L, C) of codes.

        Intermediates besides `embed`: `hs_embed` and, with register tokens, `hs_layer<i>`.
        """
        plan, uniforms = self.plan, under(noise, "dropout.transformer")
        null = jnp.full_like(ids[:, 0], plan.null_label)
        states = under(self.prepare({"label": null, **condition}), "prepared")
        x = self.tok_emb(ids) + rearrange(self.pos_emb.embedding[: ids.shape[1]], "l c -> 1 l c")
        x = x if self.in_proj is None else self.in_proj(x, plan.grid)
        x = self_conditioned(x, self.self_cond_to_init_embed, condition, plan)
        aux, L = {"hs_embed": x}, x.shape[1]
        if self.reg_tokens is not None:
            registers = repeat(self.reg_tokens.embedding[: plan.options.register], "r c -> b r c", b=len(x))
            x = jnp.concatenate([x, registers], 1)
        layers = self.transformer["layers"]
        arguments = [(states[f"layers.{i}"], under(uniforms, f"layers.{i}")) for i in range(len(layers))]
        x, intermediates = apply_layers(layers, x, (), arguments, checkpoint=self.checkpoint, scan=self.scan)
        aux |= {f"hs_layer{i}": value for i, value in enumerate(intermediates)}
        x = self.last_norm(x[:, :L], states["last_norm"])
        aux["embed"] = x
        if self.out_proj is not None:
            height, s = plan.grid // plan.options.proj, plan.options.proj
            x = rearrange(self.out_proj(x), "b (h w) (c s t) -> b (h s w t) c", h=height, s=s, t=s)
        return x, aux

    def logits(self, x: Array, outputs: int | None = None) -> Array:
        """Logits for rows of `hidden`; only the first `outputs`, if given."""
        return at_least_float32(self.head(x, self.tok_emb.embedding[...])[..., :outputs])


class HaltonLayer(nnx.Module):
    """x + alpha attention(norm), x + alpha feed-forward(norm), both norms adaptive."""

    def __init__(self, plan: TransformerPlan) -> None:
        C = plan.options.hidden_size
        self.mlp = nnx.Dict({"1": Linear(C, 6 * C)})
        self.ln1 = RMSNorm(C, plan.eps)
        self.attn = HaltonAttention(plan)
        self.ln2 = RMSNorm(C, plan.eps)
        self.ff = SwiGLU(C, plan.inner, rate=plan.options.hidden_dropout)

    def prepare(self, label: Array) -> Array:
        """Embedded class (B, C) -> shifts, scales and gates of both norms (B, 6 C)."""
        return self.mlp["1"](jax.nn.silu(label))

    def __call__(self, x: Array, modulation: Array, noise: Arrays) -> tuple[Array, Array]:
        """x (B, L, C), what `prepare` gives -> (x, x)."""
        shift1, scale1, gate1, shift2, scale2, gate2 = jnp.split(modulation, 6, -1)
        y = self.attn(modulated(self.ln1(x), scale1, shift1), noise.get("attention"))
        x = x + rearrange(gate1, "b c -> b 1 c") * y
        y = self.ff(modulated(self.ln2(x), scale2, shift2), noise.get("ff"))
        x = x + rearrange(gate2, "b c -> b 1 c") * y
        return x, x


class HaltonAttention(nnx.Module):
    """Self-attention; queries and keys are RMS-normed over all heads together: (B, L, C) -> (B, L, C)."""

    def __init__(self, plan: TransformerPlan) -> None:
        C, width = plan.options.hidden_size, plan.attention_width
        self.wq = Linear(C, width, use_bias=False)
        self.wk = Linear(C, width, use_bias=False)
        self.wv = Linear(C, width, use_bias=False)
        self.wo = Linear(width, C, use_bias=False)
        self.dropout = Dropout(plan.options.attention_dropout)
        self.heads, self.eps = plan.options.num_attention_heads, plan.eps

    def __call__(self, x: Array, noise: Array | None) -> Array:
        query, key = (rms_normalised(y, self.eps) for y in (self.wq(x), self.wk(x)))
        q, k, v = (split_heads(y, self.heads) for y in (query, key, self.wv(x)))
        return self.wo(attend(q, k, v, dropout=self.dropout, noise=noise))


class LastNorm(nnx.Module):
    """Adaptive RMSNorm with scale and shift: (B, L, C) -> (B, L, C)."""

    def __init__(self, plan: TransformerPlan) -> None:
        C = plan.options.hidden_size
        self.norm_final = BiasedRMSNorm(C, plan.eps)
        self.mlp = nnx.Dict({"1": Linear(C, 2 * C)})

    def prepare(self, label: Array) -> Array:
        """Embedded class (B, C) -> shift and scale (B, 2 C)."""
        return self.mlp["1"](jax.nn.silu(label))

    def __call__(self, x: Array, modulation: Array) -> Array:
        shift, scale = jnp.split(modulation, 2, -1)
        return modulated(self.norm_final(x), scale, shift)


class HaltonHead(nnx.Module):
    """Logits tied to the embedding, or untied for a critic: (B, L, C) -> (B, L, outputs)."""

    def __init__(self, width: int, outputs: int, tied: bool) -> None:
        self.kernel = None if tied else nnx.Param(jnp.zeros((width, outputs)))
        self.bias = nnx.Param(jnp.zeros(outputs))

    def __call__(self, x: Array, rows: Array) -> Array:
        """`rows` (V, C) are the embedding's."""
        return tied_logits(x, rows if self.kernel is None else self.kernel[...].T, self.bias[...])


class PatchIn(Conv):
    """One token per patch of codes (kernel = stride): (B, L, C) -> (B, L / p^2, C)."""

    def __init__(self, width: int, patch: int) -> None:
        super().__init__(width, width, (patch, patch), patch, use_bias=False)

    def __call__(self, x: Array, grid: int) -> Array:  # type: ignore[override]  # nnx's takes a sharding, too
        """Patches do not overlap, so this is a matrix product."""
        s, _ = self.kernel_size
        x = rearrange(x, "b (h s w t) c -> b (h w) (s t c)", h=grid // s, s=s, t=s)
        return jnp.dot(x, rearrange(self.kernel[...], "s t i o -> (s t i) o"))
