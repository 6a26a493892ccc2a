"""`MaskGitTransformer` of open-muse: pre-norm layers with gated feed-forward, after MaskGIT (Chang et al.
2022, section 3.2) and MUSE (Chang et al. 2023), optionally with NormFormer's norms (Shleifer et al. 2021)."""

from typing import Any

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from dioscuri.families.maskgit.plan import TransformerPlan
from torch_impl.layers.attention import Attention
from torch_impl.layers.dense import Logits, PointwiseDense
from torch_impl.layers.dropout import Dropout
from torch_impl.layers.named import Tensors, under
from torch_impl.layers.norms import make_norm, modulated
from torch_impl.layers.precision import at_least_float32, weights_dtype
from torch_impl.layers.stack import apply_layers
from torch_impl.models.token_transformer import (
    TokenTransformer,
    is_prepared,
    self_condition_layer,
    self_conditioned,
    undropped,
    with_class_token,
)


class MaskGitTransformer(TokenTransformer):
    """The network, which computes in its parameters' dtype.

    `checkpoint` recomputes every layer in the backward pass to save memory.
    """

    def __init__(self, plan: TransformerPlan, *, checkpoint: bool = False) -> None:
        super().__init__()
        options, C = plan.options, plan.options.hidden_size
        projected = options.add_cross_attention and options.project_encoder_hidden_states
        self.embed = (ConvEmbed if options.use_conv_in_out else Embed)(plan)
        self.self_cond_to_init_embed = self_condition_layer(plan)
        self.encoder_proj = (
            nn.Linear(options.encoder_hidden_size, C, bias=options.use_bias) if projected else None
        )
        self.encoder_proj_layer_norm = plan_norm(plan, C) if projected else None
        self.transformer_layers: Any = nn.ModuleList(
            TransformerLayer(plan) for _ in range(options.num_hidden_layers)
        )
        self.encoder_layer_norm = plan_norm(plan, C) if options.use_encoder_layernorm else None
        head = ConvMlmLayer if options.use_conv_in_out else MlmLayer
        has_head = options.use_mlm_layer or options.use_conv_in_out
        self.mlm_layer = head(plan) if has_head else None
        self.to_logits = None if has_head else Logits(C, plan.outputs, bias=options.use_bias)
        self.plan, self.checkpoint = plan, checkpoint

    def prepare(self, condition: Tensors) -> dict[str, Tensor]:
        """The projected text, and every layer's keys and values of it."""
        if not self.plan.options.add_cross_attention or is_prepared(condition):
            return dict(condition)
        context = condition["text"].to(weights_dtype(self))
        if self.encoder_proj is not None and self.encoder_proj_layer_norm is not None:
            context = self.encoder_proj_layer_norm(self.encoder_proj(context))
        context = undropped(context, condition)
        prepared = dict(condition)
        for i, layer in enumerate(self.transformer_layers):
            states = layer.crossattention.prepare(context)
            prepared |= {f"prepared.transformer_layers.{i}.{name}": value for name, value in states.items()}
        return prepared

    def hidden(
        self, ids: Tensor, condition: Tensors, noise: Tensors | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
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
            self.transformer_layers, x, shared, per_layer, checkpoint=self.checkpoint
        )
        aux |= {f"hs_layer{i}": value for i, value in enumerate(intermediates)}
        x = x if self.encoder_layer_norm is None else self.encoder_layer_norm(x)
        aux["embed"] = x[:, int(plan.class_token) :]
        return self.mlm_layer.unfolded(x) if isinstance(self.mlm_layer, ConvMlmLayer) else x, aux

    def logits(self, x: Tensor, outputs: int | None = None) -> Tensor:
        """Logits for rows of `hidden`; only the first `outputs`, if given."""
        head: Any = self.to_logits if self.mlm_layer is None else self.mlm_layer
        return at_least_float32(head(x, outputs))


class TransformerLayer(nn.Module):
    """Self-attention, cross-attention if there is text, feed-forward layer."""

    def __init__(self, plan: TransformerPlan) -> None:
        super().__init__()
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

    def forward(
        self, x: Tensor, mask: Tensor | None, prepared: Tensors, noise: Tensors
    ) -> tuple[Tensor, Tensor]:
        """x (B, L, C) -> (x, x). `prepared` holds keys and values of the text, whose mask is (B, S)."""
        y = self.attention(self.attn_layer_norm(x), noise=noise.get("attention"))
        x = x + (y if self.post_attn_layer_norm is None else self.post_attn_layer_norm(y))
        if self.crossattention is not None and self.crossattn_layer_norm is not None:
            uniform = noise.get("crossattention")
            y = self.crossattention(self.crossattn_layer_norm(x), prepared, mask, uniform)
            x = x + (y if self.post_crossattn_layer_norm is None else self.post_crossattn_layer_norm(y))
        x = x + self.ffn(x, noise=noise.get("ffn"))
        return x, x


class FeedForward(nn.Module):
    """wo(gelu(wi_0 h) * wi_1 h) with h = norm(x), adaptive for uvit: (B, L, C) -> (B, L, C)."""

    def __init__(self, plan: TransformerPlan) -> None:
        super().__init__()
        options, C, inner = plan.options, plan.options.hidden_size, plan.inner
        extra = options.use_normformer and options.architecture == "maskgit"
        self.pre_mlp_layer_norm = plan_norm(plan, C, layer_norm=options.legacy_mlp_layernorm)
        self.adaLN_modulation = Modulation(plan, C) if plan.cond_inputs else None
        self.wi_0 = nn.Linear(C, inner, bias=options.use_bias)
        self.wi_1 = nn.Linear(C, inner, bias=options.use_bias)
        self.mid_mlp_layer_norm = plan_norm(plan, inner) if extra else None
        self.wo = nn.Linear(inner, C, bias=options.use_bias)
        self.dropout = Dropout(options.hidden_dropout)

    def forward(self, x: Tensor, modulation: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
        """`modulation` (B, 2 C) is for the adaptive norm; `noise` (B, L, inner) is uniform, for dropout."""
        h = adapted(self.pre_mlp_layer_norm(x), modulation)
        h = F.gelu(self.wi_0(h)) * self.wi_1(h)
        h = h if self.mid_mlp_layer_norm is None else self.mid_mlp_layer_norm(h)
        return self.wo(self.dropout(h, noise))


class Embed(nn.Module):
    """Embeddings of tokens and positions: ids (B, L) -> (B, L, C)."""

    def __init__(self, plan: TransformerPlan) -> None:
        super().__init__()
        C = plan.options.hidden_size
        self.word_embeddings = nn.Embedding(plan.vocab_size, C)
        self.position_embeddings = nn.Embedding(plan.positions, C)
        self.dropout = Dropout(plan.options.hidden_dropout)

    def forward(self, ids: Tensor, noise: Tensor | None) -> Tensor:
        positions = rearrange(self.position_embeddings.weight[: ids.shape[1]], "l c -> 1 l c")
        return self.dropout(self.word_embeddings(ids) + positions, noise)


class ConvEmbed(nn.Module):
    """One token per patch of codes, without dropout: ids (B, L) -> (B, L / p^2, C)."""

    def __init__(self, plan: TransformerPlan) -> None:
        super().__init__()
        options, E, patch = plan.options, plan.options.embedding_size, plan.options.patch_size
        self.embeddings = nn.Embedding(plan.vocab_size, E)
        self.layer_norm = plan_norm(plan, E)
        self.conv = PointwiseDense(E * patch**2, options.hidden_size, bias=options.use_bias)
        self.position_embeddings = nn.Embedding(plan.positions, options.hidden_size)
        self.grid, self.patch = plan.grid, patch

    def forward(self, ids: Tensor, noise: Tensor | None) -> Tensor:  # noqa: ARG002 - as Embed's
        x = self.layer_norm(self.embeddings(ids))
        height = self.grid // self.patch
        x = rearrange(x, "b (h s w t) c -> b (h w) (c s t)", h=height, s=self.patch, t=self.patch)
        x = self.conv(x)
        return x + rearrange(self.position_embeddings.weight[: x.shape[1]], "l c -> 1 l c")


class MlmLayer(nn.Module):
    """Dense layer, GELU, norm, and all or the first logits: (B, L, C) -> (B, L, outputs)."""

    def __init__(self, plan: TransformerPlan) -> None:
        super().__init__()
        options, C = plan.options, plan.options.hidden_size
        self.mlm_dense = nn.Linear(C, C, bias=options.use_bias)
        self.mlm_ln = plan_norm(plan, C) if options.use_mlm_layernorm else None
        self.to_logits = Logits(C, plan.outputs, bias=options.use_bias)

    def forward(self, x: Tensor, outputs: int | None = None) -> Tensor:
        y = F.gelu(self.mlm_dense(x))
        return self.to_logits(y if self.mlm_ln is None else self.mlm_ln(y), outputs)


class ConvMlmLayer(nn.Module):
    """Logits from embeddings of codes, which `unfolded` takes out of patches:
    (B, L, E) -> (B, L, outputs)."""

    def __init__(self, plan: TransformerPlan) -> None:
        super().__init__()
        options, C = plan.options, plan.options.hidden_size
        E, bias, self.patch = options.embedding_size, options.use_bias, options.patch_size
        self.conv1 = PointwiseDense(C, E * self.patch**2, bias=bias)
        self.layer_norm = nn.ModuleDict({"norm": plan_norm(plan, E)})
        self.conv2 = PointwiseDense(E, plan.outputs, bias=bias)
        self.side = plan.grid // self.patch

    def unfolded(self, x: Tensor) -> Tensor:
        """Embeddings of codes: (B, L / p^2, C) -> (B, L, E)."""
        pattern = "b (h w) (c s t) -> b (h s w t) c"
        return rearrange(self.conv1(x), pattern, h=self.side, s=self.patch, t=self.patch)

    def forward(self, x: Tensor, outputs: int | None = None) -> Tensor:
        return self.conv2(self.layer_norm["norm"](x), outputs)


class Modulation(nn.Module):
    """Scale and shift of an adaptive norm: (B, C) -> (B, 2 width)."""

    def __init__(self, plan: TransformerPlan, width: int) -> None:
        super().__init__()
        options = plan.options
        self.mapper = nn.Linear(options.hidden_size, 2 * width, bias=options.use_bias)

    def forward(self, condition: Tensor) -> Tensor:
        return self.mapper(F.silu(condition))


def plan_norm(plan: TransformerPlan, width: int, *, layer_norm: bool = False) -> nn.Module:
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


def adapted(x: Tensor, modulation: Tensor | None) -> Tensor:
    """x (B, ..., C) with scale and shift (B, 2 C), if any."""
    return x if modulation is None else modulated(x, *modulation.chunk(2, -1))
