"""The network of Halton-MaskGIT (Besnier et al. 2025): a DiT (Peebles and Xie 2022) with RMSNorm, SwiGLU and
register tokens; the class enters through adaptive norms. See `maskgit.py` for the calling convention.

Dropout acts on attention probabilities and inside the feed-forward layers.
"""

from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from dioscuri.families.maskgit.plan import TransformerPlan
from torch_impl.layers.attention import attend, split_heads
from torch_impl.layers.dense import PointwiseDense, tied_logits
from torch_impl.layers.dropout import Dropout
from torch_impl.layers.feed_forward import SwiGLU
from torch_impl.layers.named import Tensors, under
from torch_impl.layers.norms import BiasedRMSNorm, modulated, rms_normalised
from torch_impl.layers.precision import at_least_float32
from torch_impl.layers.stack import apply_layers
from torch_impl.models.token_transformer import (
    TokenTransformer,
    is_prepared,
    self_condition_layer,
    self_conditioned,
)


class HaltonTransformer(TokenTransformer):
    """The network, which computes in its parameters' dtype.

    `checkpoint` recomputes every layer in the backward pass to save memory.
    """

    def __init__(self, plan: TransformerPlan, *, checkpoint: bool = False) -> None:
        super().__init__()
        options, C = plan.options, plan.options.hidden_size
        patched, tied = options.proj > 1, plan.outputs == plan.vocab_size
        self.cls_emb = nn.Embedding(options.num_classes + 1, C)
        self.tok_emb = nn.Embedding(plan.vocab_size, C)
        self.pos_emb = nn.Embedding(plan.positions, C)
        self.self_cond_to_init_embed = self_condition_layer(plan)
        self.in_proj = PatchIn(C, options.proj) if patched else None
        self.transformer: Any = nn.ModuleDict(
            {"layers": nn.ModuleList(HaltonLayer(plan) for _ in range(options.num_hidden_layers))}
        )
        self.last_norm = LastNorm(plan)
        self.out_proj = PointwiseDense(C, C * options.proj**2, bias=False) if patched else None
        self.head = HaltonHead(C, plan.outputs, tied)
        self.reg_tokens = nn.Embedding(options.register, C) if options.register else None
        self.plan, self.checkpoint = plan, checkpoint

    def prepare(self, condition: Tensors) -> dict[str, Tensor]:
        """Modulation of every adaptive norm by the class; empty without `label`,
        which gives the batch size."""
        if is_prepared(condition) or "label" not in condition:
            return dict(condition)
        label = self.cls_emb(condition["label"].clamp(max=self.plan.null_label))
        prepared = {
            f"prepared.layers.{i}": layer.prepare(label) for i, layer in enumerate(self.transformer["layers"])
        }
        return {**condition, **prepared, "prepared.last_norm": self.last_norm.prepare(label)}

    def hidden(
        self, ids: Tensor, condition: Tensors, noise: Tensors | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Normed states (B, L, C) of codes.

        Intermediates besides `embed`: `hs_embed` and, with register tokens, `hs_layer<i>`.
        """
        plan, uniforms = self.plan, under(noise, "dropout.transformer")
        null = torch.full_like(ids[:, 0], plan.null_label)
        states = under(self.prepare({"label": null, **condition}), "prepared")
        x = self.tok_emb(ids) + rearrange(self.pos_emb.weight[: ids.shape[1]], "l c -> 1 l c")
        x = x if self.in_proj is None else self.in_proj(x, plan.grid)
        x = self_conditioned(x, self.self_cond_to_init_embed, condition, plan)
        aux, L = {"hs_embed": x}, x.shape[1]
        if self.reg_tokens is not None:
            registers = repeat(self.reg_tokens.weight[: plan.options.register], "r c -> b r c", b=len(x))
            x = torch.cat([x, registers], 1)
        layers = self.transformer["layers"]
        arguments = [(states[f"layers.{i}"], under(uniforms, f"layers.{i}")) for i in range(len(layers))]
        x, intermediates = apply_layers(layers, x, (), arguments, checkpoint=self.checkpoint)
        aux |= {f"hs_layer{i}": value for i, value in enumerate(intermediates)}
        x = self.last_norm(x[:, :L], states["last_norm"])
        aux["embed"] = x
        if self.out_proj is not None:
            height, s = plan.grid // plan.options.proj, plan.options.proj
            x = rearrange(self.out_proj(x), "b (h w) (c s t) -> b (h s w t) c", h=height, s=s, t=s)
        return x, aux

    def logits(self, x: Tensor, outputs: int | None = None) -> Tensor:
        """Logits for rows of `hidden`; only the first `outputs`, if given."""
        return at_least_float32(self.head(x, self.tok_emb.weight)[..., :outputs])


class HaltonLayer(nn.Module):
    """x + alpha attention(norm), x + alpha feed-forward(norm), both norms adaptive."""

    def __init__(self, plan: TransformerPlan) -> None:
        super().__init__()
        C = plan.options.hidden_size
        self.mlp = nn.ModuleDict({"1": nn.Linear(C, 6 * C)})
        self.ln1 = nn.RMSNorm(C, plan.eps)
        self.attn = HaltonAttention(plan)
        self.ln2 = nn.RMSNorm(C, plan.eps)
        self.ff = SwiGLU(C, plan.inner, rate=plan.options.hidden_dropout)

    def prepare(self, label: Tensor) -> Tensor:
        """Embedded class (B, C) -> shifts, scales and gates of both norms (B, 6 C)."""
        return self.mlp["1"](F.silu(label))

    def forward(self, x: Tensor, modulation: Tensor, noise: Tensors) -> tuple[Tensor, Tensor]:
        """x (B, L, C), what `prepare` gives -> (x, x)."""
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation.chunk(6, -1)
        y = self.attn(modulated(self.ln1(x), scale1, shift1), noise.get("attention"))
        x = x + rearrange(gate1, "b c -> b 1 c") * y
        y = self.ff(modulated(self.ln2(x), scale2, shift2), noise.get("ff"))
        x = x + rearrange(gate2, "b c -> b 1 c") * y
        return x, x


class HaltonAttention(nn.Module):
    """Self-attention; queries and keys are RMS-normed over all heads together: (B, L, C) -> (B, L, C)."""

    def __init__(self, plan: TransformerPlan) -> None:
        super().__init__()
        C, width = plan.options.hidden_size, plan.attention_width
        self.wq = nn.Linear(C, width, bias=False)
        self.wk = nn.Linear(C, width, bias=False)
        self.wv = nn.Linear(C, width, bias=False)
        self.wo = nn.Linear(width, C, bias=False)
        self.dropout = Dropout(plan.options.attention_dropout)
        self.heads, self.eps = plan.options.num_attention_heads, plan.eps

    def forward(self, x: Tensor, noise: Tensor | None) -> Tensor:
        query, key = (rms_normalised(y, self.eps) for y in (self.wq(x), self.wk(x)))
        q, k, v = (split_heads(y, self.heads) for y in (query, key, self.wv(x)))
        return self.wo(attend(q, k, v, dropout=self.dropout, noise=noise))


class LastNorm(nn.Module):
    """Adaptive RMSNorm with scale and shift: (B, L, C) -> (B, L, C)."""

    def __init__(self, plan: TransformerPlan) -> None:
        super().__init__()
        C = plan.options.hidden_size
        self.norm_final = BiasedRMSNorm(C, plan.eps)
        self.mlp = nn.ModuleDict({"1": nn.Linear(C, 2 * C)})

    def prepare(self, label: Tensor) -> Tensor:
        """Embedded class (B, C) -> shift and scale (B, 2 C)."""
        return self.mlp["1"](F.silu(label))

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        shift, scale = modulation.chunk(2, -1)
        return modulated(self.norm_final(x), scale, shift)


class HaltonHead(nn.Module):
    """Logits tied to the embedding, or untied for a critic: (B, L, C) -> (B, L, outputs)."""

    def __init__(self, width: int, outputs: int, tied: bool) -> None:
        super().__init__()
        self.weight = None if tied else nn.Parameter(torch.zeros(outputs, width))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor, rows: Tensor) -> Tensor:
        """`rows` (V, C) are the embedding's."""
        return tied_logits(x, rows if self.weight is None else self.weight, self.bias)


class PatchIn(nn.Conv2d):
    """One token per patch of codes (kernel = stride): (B, L, C) -> (B, L / p^2, C)."""

    def __init__(self, width: int, patch: int) -> None:
        super().__init__(width, width, patch, patch, bias=False)

    def forward(self, x: Tensor, grid: int) -> Tensor:  # type: ignore[override]  # a grid of this side
        """Patches do not overlap, so this is a matrix product."""
        s, _ = self.kernel_size
        x = rearrange(x, "b (h s w t) c -> b (h w) (s t c)", h=grid // s, s=s, t=s)
        return F.linear(x, rearrange(self.weight, "o i s t -> o (s t i)"))
