"""`MaskGitTransformer` of open-muse: pre-norm layers with gated feed-forward, after MaskGIT (Chang et al.
2022, section 3.2) and MUSE (Chang et al. 2023), optionally with NormFormer's norms (Shleifer et al. 2021)."""

from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax import Array

from dioscuri.families.maskgit.plan import TransformerPlan
from jax_impl.layers.attention import Attention
from jax_impl.layers.dense import Embedding, Linear, Logits, PointwiseDense
from jax_impl.layers.dropout import Dropout
from jax_impl.layers.named import Arrays, under
from jax_impl.layers.norms import make_norm, modulated
from jax_impl.layers.precision import at_least_float32, weights_dtype
from jax_impl.layers.stack import apply_layers
from jax_impl.models.token_transformer import (
    TokenTransformer,
    is_prepared,
    self_condition_layer,
    self_conditioned,
    undropped,
    with_class_token,
)


class MaskGitTransformer(TokenTransformer):
    """The network, which computes in its parameters' dtype.

    `checkpoint` recomputes every layer in the backward pass to save memory; `scan` compiles one layer as a
    loop over all.
    """

    def __init__(self, plan: TransformerPlan, *, checkpoint: bool = False, scan: bool = False) -> None:
        options, C = plan.options, plan.options.hidden_size
        projected = options.add_cross_attention and options.project_encoder_hidden_states
        self.embed = (ConvEmbed if options.use_conv_in_out else Embed)(plan)
        self.self_cond_to_init_embed = self_condition_layer(plan)
        self.encoder_proj = (
            Linear(options.encoder_hidden_size, C, use_bias=options.use_bias) if projected else None
        )
        self.encoder_proj_layer_norm = plan_norm(plan, C) if projected else None
        self.transformer_layers: Any = nnx.List(
            [TransformerLayer(plan) for _ in range(options.num_hidden_layers)]
        )
        self.encoder_layer_norm = plan_norm(plan, C) if options.use_encoder_layernorm else None
        head = ConvMlmLayer if options.use_conv_in_out else MlmLayer
        has_head = options.use_mlm_layer or options.use_conv_in_out
        self.mlm_layer = head(plan) if has_head else None
        self.to_logits = None if has_head else Logits(C, plan.outputs, use_bias=options.use_bias)
        self.plan, self.checkpoint, self.scan = plan, checkpoint, scan

    def prepare(self, condition: Arrays) -> dict[str, Array]:
        """The projected text, and every layer's keys and values of it."""
        if not self.plan.options.add_cross_attention or is_prepared(condition):
            return dict(condition)
        context = condition["text"].astype(weights_dtype(self))
        if self.encoder_proj is not None and self.encoder_proj_layer_norm is not None:
            context = self.encoder_proj_layer_norm(self.encoder_proj(context))
        context = undropped(context, condition)
        prepared = dict(condition)
        for i, layer in enumerate(self.transformer_layers):
            states = layer.crossattention.prepare(context)
            prepared |= {f"prepared.transformer_layers.{i}.{name}": value for name, value in states.items()}
        return prepared

    def hidden(
        self, ids: Array, condition: Arrays, noise: Arrays | None = None
    ) -> tuple[Array, dict[str, Array]]:
        """Normed states (B, L, C) of codes or, with `use_conv_in_out`, embeddings of codes, after the class
        token's.

        Intermediates besides `embed`: `hs_embed` and `hs_layer<i>`, with the class token.
        """
        plan, states, uniforms = self.plan, self.prepare(condition), under(noise, "dropout")
        x = self.embed(with_class_token(ids, condition, plan), uniforms.get("embed"))
        x = self_conditioned(x, self.self_cond_to_init_embed, condition, plan)
        aux = {"hs_embed": x}
        names = [f"transformer_layers.{i}" for i in range(len(self.transformer_layers))]
        per_layer = [(under(states, f"prepared.{name}"), under(uniforms, name)) for name in names]
        shared = (condition.get("text_mask"),)
        x, intermediates = apply_layers(
            self.transformer_layers, x, shared, per_layer, checkpoint=self.checkpoint, scan=self.scan
        )
        aux |= {f"hs_layer{i}": value for i, value in enumerate(intermediates)}
        x = x if self.encoder_layer_norm is None else self.encoder_layer_norm(x)
        aux["embed"] = x[:, int(plan.class_token) :]
        return self.mlm_layer.unfolded(x) if isinstance(self.mlm_layer, ConvMlmLayer) else x, aux

    def logits(self, x: Array, outputs: int | None = None) -> Array:
        """Logits for rows of `hidden`; only the first `outputs`, if given."""
        head: Any = self.to_logits if self.mlm_layer is None else self.mlm_layer
        return at_least_float32(head(x, outputs))


class TransformerLayer(nnx.Module):
    """Self-attention, cross-attention if there is text, feed-forward layer."""

    def __init__(self, plan: TransformerPlan) -> None:
        options, C = plan.options, plan.options.hidden_size
        context = C if options.project_encoder_hidden_states else options.encoder_hidden_size
        crossed, extra = options.add_cross_attention, options.use_normformer
        self.attn_layer_norm = plan_norm(plan, C)
        self.attention = plan_attention(plan)
        self.post_attn_layer_norm = plan_norm(plan, C) if extra else None
        self.crossattn_layer_norm = plan_norm(plan, C) if crossed else None
        self.crossattention = plan_attention(plan, context) if crossed else None
        self.post_crossattn_layer_norm = plan_norm(plan, C) if crossed and extra else None
        self.ffn = FeedForward(plan)

    def __call__(self, x: Array, mask: Array | None, prepared: Arrays, noise: Arrays) -> tuple[Array, Array]:
        """x (B, L, C) -> (x, x). `prepared` holds keys and values of the text, whose mask is (B, S)."""
        y = self.attention(self.attn_layer_norm(x), noise=noise.get("attention"))
        x = x + (y if self.post_attn_layer_norm is None else self.post_attn_layer_norm(y))
        if self.crossattention is not None and self.crossattn_layer_norm is not None:
            uniform = noise.get("crossattention")
            y = self.crossattention(self.crossattn_layer_norm(x), prepared, mask, uniform)
            x = x + (y if self.post_crossattn_layer_norm is None else self.post_crossattn_layer_norm(y))
        x = x + self.ffn(x, noise=noise.get("ffn"))
        return x, x


class FeedForward(nnx.Module):
    """wo(gelu(wi_0 h) * wi_1 h) with h = norm(x), adaptive for uvit: (B, L, C) -> (B, L, C)."""

    def __init__(self, plan: TransformerPlan) -> None:
        options, C, inner = plan.options, plan.options.hidden_size, plan.inner
        extra = options.use_normformer and options.architecture == "maskgit"
        self.pre_mlp_layer_norm = plan_norm(plan, C, layer_norm=options.legacy_mlp_layernorm)
        self.adaLN_modulation = Modulation(plan, C) if plan.cond_inputs else None
        self.wi_0 = Linear(C, inner, use_bias=options.use_bias)
        self.wi_1 = Linear(C, inner, use_bias=options.use_bias)
        self.mid_mlp_layer_norm = plan_norm(plan, inner) if extra else None
        self.wo = Linear(inner, C, use_bias=options.use_bias)
        self.dropout = Dropout(options.hidden_dropout)

    def __call__(self, x: Array, modulation: Array | None = None, noise: Array | None = None) -> Array:
        """`modulation` (B, 2 C) is for the adaptive norm; `noise` (B, L, inner) is uniform, for dropout."""
        h = adapted(self.pre_mlp_layer_norm(x), modulation)
        h = jax.nn.gelu(self.wi_0(h), approximate=False) * self.wi_1(h)
        h = h if self.mid_mlp_layer_norm is None else self.mid_mlp_layer_norm(h)
        return self.wo(self.dropout(h, noise))


class Embed(nnx.Module):
    """Embeddings of tokens and positions: ids (B, L) -> (B, L, C)."""

    def __init__(self, plan: TransformerPlan) -> None:
        C = plan.options.hidden_size
        self.word_embeddings = Embedding(plan.vocab_size, C)
        self.position_embeddings = Embedding(plan.positions, C)
        self.dropout = Dropout(plan.options.hidden_dropout)

    def __call__(self, ids: Array, noise: Array | None) -> Array:
        positions = rearrange(self.position_embeddings.embedding[: ids.shape[1]], "l c -> 1 l c")
        return self.dropout(self.word_embeddings(ids) + positions, noise)


class ConvEmbed(nnx.Module):
    """One token per patch of codes, without dropout: ids (B, L) -> (B, L / p^2, C)."""

    def __init__(self, plan: TransformerPlan) -> None:
        options, E, patch = plan.options, plan.options.embedding_size, plan.options.patch_size
        self.embeddings = Embedding(plan.vocab_size, E)
        self.layer_norm = plan_norm(plan, E)
        self.conv = PointwiseDense(E * patch**2, options.hidden_size, use_bias=options.use_bias)
        self.position_embeddings = Embedding(plan.positions, options.hidden_size)
        self.grid, self.patch = plan.grid, patch

    def __call__(self, ids: Array, noise: Array | None) -> Array:  # noqa: ARG002 - as Embed's
        x = self.layer_norm(self.embeddings(ids))
        height = self.grid // self.patch
        x = rearrange(x, "b (h s w t) c -> b (h w) (c s t)", h=height, s=self.patch, t=self.patch)
        x = self.conv(x)
        return x + rearrange(self.position_embeddings.embedding[: x.shape[1]], "l c -> 1 l c")


class MlmLayer(nnx.Module):
    """Dense layer, GELU, norm, and all or the first logits: (B, L, C) -> (B, L, outputs)."""

    def __init__(self, plan: TransformerPlan) -> None:
        options, C = plan.options, plan.options.hidden_size
        self.mlm_dense = Linear(C, C, use_bias=options.use_bias)
        self.mlm_ln = plan_norm(plan, C) if options.use_mlm_layernorm else None
        self.to_logits = Logits(C, plan.outputs, use_bias=options.use_bias)

    def __call__(self, x: Array, outputs: int | None = None) -> Array:
        y = jax.nn.gelu(self.mlm_dense(x), approximate=False)
        return self.to_logits(y if self.mlm_ln is None else self.mlm_ln(y), outputs)


class ConvMlmLayer(nnx.Module):
    """Logits from embeddings of codes, which `unfolded` takes out of patches:
    (B, L, E) -> (B, L, outputs)."""

    def __init__(self, plan: TransformerPlan) -> None:
        options, C = plan.options, plan.options.hidden_size
        E, bias, self.patch = options.embedding_size, options.use_bias, options.patch_size
        self.conv1 = PointwiseDense(C, E * self.patch**2, use_bias=bias)
        self.layer_norm = nnx.Dict({"norm": plan_norm(plan, E)})
        self.conv2 = PointwiseDense(E, plan.outputs, use_bias=bias)
        self.side = plan.grid // self.patch

    def unfolded(self, x: Array) -> Array:
        """Embeddings of codes: (B, L / p^2, C) -> (B, L, E)."""
        pattern = "b (h w) (c s t) -> b (h s w t) c"
        return rearrange(self.conv1(x), pattern, h=self.side, s=self.patch, t=self.patch)

    def __call__(self, x: Array, outputs: int | None = None) -> Array:
        return self.conv2(self.layer_norm["norm"](x), outputs)


class Modulation(nnx.Module):
    """Scale and shift of an adaptive norm: (B, C) -> (B, 2 width)."""

    def __init__(self, plan: TransformerPlan, width: int) -> None:
        options = plan.options
        self.mapper = Linear(options.hidden_size, 2 * width, use_bias=options.use_bias)

    def __call__(self, condition: Array) -> Array:
        return self.mapper(jax.nn.silu(condition))


def plan_norm(plan: TransformerPlan, width: int, *, layer_norm: bool = False) -> nnx.Module:
    """A norm of the chosen type, or always a LayerNorm with `layer_norm`."""
    options = plan.options
    scale = options.architecture != "uvit" or options.ln_elementwise_affine
    kind = "layernorm" if layer_norm else options.norm_type
    return make_norm(kind, width, plan.eps, scale=scale, bias=options.use_bias)


def plan_attention(plan: TransformerPlan, context_width: int | None = None) -> Attention:
    """Attention of the transformer's width."""
    options = plan.options
    return Attention(
        options.hidden_size,
        options.num_attention_heads,
        context_width=context_width,
        bias=options.use_bias,
        rate=options.attention_dropout,
    )


def adapted(x: Array, modulation: Array | None) -> Array:
    """x (B, ..., C) with scale and shift (B, 2 C), if any."""
    return x if modulation is None else modulated(x, *jnp.split(modulation, 2, -1))
