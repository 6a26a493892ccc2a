"""`MaskGiTUViT_v2` of open-muse, the network of aMUSEd (Patil et al. 2024): convolutional blocks around a
transformer, adaptive norms, cross-attention to text. See `maskgit.py` for the calling convention. Grids are
(B, h, w, c). There is no position embedding: positions follow from the convolutions.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from dioscuri.families.maskgit.plan import TransformerPlan
from torch_impl.layers.dense import PointwiseDense
from torch_impl.layers.named import Tensors, under
from torch_impl.layers.precision import at_least_float32
from torch_impl.layers.stack import apply_layers
from torch_impl.models.maskgit import FeedForward, Modulation, adapted, plan_attention, plan_norm
from torch_impl.models.token_transformer import (
    TokenTransformer,
    is_prepared,
    self_condition_layer,
    self_conditioned,
    undropped,
)
from torch_impl.models.uvit_blocks import UViTSide

CONDITION = ("cond_embed_in", "cond_embed_out")
"""Conditions of the adaptive norms: pooled text and micro-conditions, and their embedding."""


class MaskGiTUViT(TokenTransformer):
    """The network, which computes in its parameters' dtype.

    `checkpoint` recomputes every transformer layer in the backward pass to save memory.
    """

    def __init__(self, plan: TransformerPlan, *, checkpoint: bool = False) -> None:
        super().__init__()
        options, C, c = plan.options, plan.options.hidden_size, plan.options.block_out_channels[0]
        bias = options.use_bias
        self.encoder_proj = nn.Linear(options.encoder_hidden_size, C, bias=bias)
        self.encoder_proj_layer_norm = plan_norm(plan, C)
        self.embed = UViTEmbed(plan)
        self.cond_embed = (
            nn.ModuleDict(
                {
                    "0": nn.Linear(plan.cond_inputs, C, bias=bias),
                    "2": nn.Linear(C, C, bias=bias),
                }
            )
            if plan.cond_inputs
            else None
        )
        self.down_blocks: Any = nn.ModuleList([UViTSide(plan, down=True)])
        self.project_to_hidden_norm = plan_norm(plan, c)
        self.project_to_hidden = nn.Linear(c, C, bias=bias)
        self.self_cond_to_init_embed = self_condition_layer(plan)
        self.transformer_layers: Any = nn.ModuleList(
            UViTLayer(plan) for _ in range(options.num_hidden_layers)
        )
        self.project_from_hidden_norm = plan_norm(plan, C)
        self.project_from_hidden = nn.Linear(C, c, bias=bias)
        self.up_blocks: Any = nn.ModuleList([UViTSide(plan, down=False)])
        self.mlm_layer = UViTMlmLayer(plan)
        self.plan, self.checkpoint = plan, checkpoint

    def prepare(self, condition: Tensors) -> dict[str, Tensor]:
        """Every attention's keys and values of the text, the modulation of every adaptive norm, and
        `prepared.cond_embed_in` and `prepared.cond_embed_out`."""
        if is_prepared(condition):
            return dict(condition)
        text = condition["text"].to(self.encoder_proj.weight.dtype)
        context = undropped(self.encoder_proj_layer_norm(self.encoder_proj(text)), condition)
        prepared, embedded = dict(condition), None
        if self.cond_embed is not None:
            cond_inputs = condition_vector(condition, self.plan).to(context.dtype)
            embedded = self.cond_embed["2"](F.silu(self.cond_embed["0"](cond_inputs)))
            prepared |= {"prepared.cond_embed_in": cond_inputs, "prepared.cond_embed_out": embedded}
        blocks = {"down_blocks.0": self.down_blocks[0], "up_blocks.0": self.up_blocks[0]}
        blocks |= {f"transformer_layers.{i}": layer for i, layer in enumerate(self.transformer_layers)}
        for name, block in blocks.items():
            states = block.prepare(context, embedded)
            prepared |= {f"prepared.{name}.{key}": value for key, value in states.items()}
        return prepared

    def hidden(
        self, ids: Tensor, condition: Tensors, noise: Tensors | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """States (B, L, c) of codes after the convolutional blocks.

        Intermediates besides `embed`: `cond_embed_in`, `cond_embed_out` (B, C), the grids `hs_embed`,
        `down_out` and `up_out`, and `hs_layer<i>`, the output of the layer's feed-forward part.
        """
        states, uniforms = under(self.prepare(condition), "prepared"), under(noise, "dropout")
        mask = condition.get("text_mask")
        aux: dict[str, Tensor] = {name: states[name] for name in CONDITION if name in states}
        x = self.embed(ids)
        aux["hs_embed"] = x
        x = self.down_blocks[0](x, mask, under(states, "down_blocks.0"), under(uniforms, "down_blocks.0"))
        aux["down_out"] = x
        height = x.shape[1]
        x = self.project_to_hidden(self.project_to_hidden_norm(rearrange(x, "b h w c -> b (h w) c")))
        x = self_conditioned(x, self.self_cond_to_init_embed, condition, self.plan)
        names = [f"transformer_layers.{i}" for i in range(len(self.transformer_layers))]
        per_layer = [(under(states, name), under(uniforms, name)) for name in names]
        x, intermediates = apply_layers(
            self.transformer_layers, x, (mask,), per_layer, checkpoint=self.checkpoint
        )
        aux |= {f"hs_layer{i}": value for i, value in enumerate(intermediates)} | {"embed": x}
        x = self.project_from_hidden(self.project_from_hidden_norm(x))
        x = rearrange(x, "b (h w) c -> b h w c", h=height)
        x = self.up_blocks[0](x, mask, under(states, "up_blocks.0"), under(uniforms, "up_blocks.0"))
        aux["up_out"] = x
        return rearrange(x, "b h w c -> b (h w) c"), aux

    def logits(self, x: Tensor, outputs: int | None = None) -> Tensor:
        """Logits for rows of `hidden`; only the first `outputs`, if given."""
        return at_least_float32(self.mlm_layer(x, outputs))


class UViTLayer(nn.Module):
    """Self-attention, cross-attention, feed-forward, each after an adaptive norm."""

    def __init__(self, plan: TransformerPlan) -> None:
        super().__init__()
        C, adaptive = plan.options.hidden_size, plan.cond_inputs > 0
        self.attn_layer_norm = plan_norm(plan, C)
        self.self_attn_adaLN_modulation = Modulation(plan, C) if adaptive else None
        self.attention = plan_attention(plan)
        self.crossattn_layer_norm = plan_norm(plan, C)
        self.crossattention = plan_attention(plan)
        self.cross_attn_adaLN_modulation = Modulation(plan, C) if adaptive else None
        self.ffn = FeedForward(plan)

    def prepare(self, context: Tensor, embedded: Tensor | None) -> dict[str, Tensor]:
        """Keys and values of text states (B, S, C), and three modulations by the condition (B, C)."""
        prepared = self.crossattention.prepare(context)
        modulations = {
            "self": self.self_attn_adaLN_modulation,
            "cross": self.cross_attn_adaLN_modulation,
            "ffn": self.ffn.adaLN_modulation,
        }
        return prepared | {
            name: module(embedded)
            for name, module in modulations.items()
            if module is not None and embedded is not None
        }

    def forward(
        self, x: Tensor, mask: Tensor | None, prepared: Tensors, noise: Tensors
    ) -> tuple[Tensor, Tensor]:
        """x (B, L, C) -> x, and the feed-forward part's output, which x includes."""
        y = adapted(self.attn_layer_norm(x), prepared.get("self"))
        x = x + self.attention(y, noise=noise.get("attention"))
        y = adapted(self.crossattn_layer_norm(x), prepared.get("cross"))
        x = x + self.crossattention(y, prepared, mask, noise.get("crossattention"))
        y = self.ffn(x, prepared.get("ffn"), noise.get("ffn"))
        return x + y, y


class UViTEmbed(nn.Module):
    """Embedding, norm, 1x1 convolution: ids (B, L) -> (B, h, w, c)."""

    def __init__(self, plan: TransformerPlan) -> None:
        super().__init__()
        options, c = plan.options, plan.options.block_out_channels[0]
        self.embeddings = nn.Embedding(plan.vocab_size, options.in_channels)
        self.layer_norm = plan_norm(plan, options.in_channels)
        self.conv = PointwiseDense(options.in_channels, c, bias=options.use_bias)
        self.grid = plan.grid

    def forward(self, ids: Tensor) -> Tensor:
        x = self.conv(self.layer_norm(self.embeddings(ids)))
        return rearrange(x, "b (h w) c -> b h w c", h=self.grid)


class UViTMlmLayer(nn.Module):
    """1x1 convolution, norm, 1x1 convolution: (B, L, c) -> (B, L, outputs)."""

    def __init__(self, plan: TransformerPlan) -> None:
        super().__init__()
        options, c = plan.options, plan.options.block_out_channels[0]
        bias, inner = options.use_bias, options.in_channels
        self.conv1 = PointwiseDense(c, inner, bias=bias)
        self.layer_norm = nn.ModuleDict({"norm": plan_norm(plan, inner)})
        self.conv2 = PointwiseDense(inner, plan.outputs, bias=bias)

    def forward(self, x: Tensor, outputs: int | None = None) -> Tensor:
        return self.conv2(self.layer_norm["norm"](self.conv1(x)), outputs)


def condition_vector(condition: Tensors, plan: TransformerPlan) -> Tensor:
    """Pooled text state and encoded micro-conditions, as far as the plan has them: (B, P + 5 E)."""
    parts = []
    if plan.options.add_cond_embeds:
        parts.append(at_least_float32(condition["pooled"]))
    if plan.options.add_micro_cond_embeds:
        encoded = sinusoidal(at_least_float32(condition["micro"]), plan.options.micro_cond_encode_dim)
        parts.append(rearrange(encoded, "b n e -> b (n e)"))
    return torch.cat(parts, -1)


def sinusoidal(x: Tensor, width: int) -> Tensor:
    """Cosines, then sines of x at frequencies 10000^(-i / half), i < half = width // 2: (..., width).

    An odd width ends in a zero (Vaswani et al. 2017, section 3.5).
    """
    half = width // 2
    frequencies = torch.as_tensor(
        np.exp(-np.log(10000) * np.arange(half) / half), dtype=x.dtype, device=x.device
    )
    angles = x[..., None] * frequencies.reshape((1,) * x.ndim + (half,))
    return F.pad(torch.cat([angles.cos(), angles.sin()], -1), (0, width % 2))
