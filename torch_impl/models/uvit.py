"""`MaskGiTUViT_v2` of open-muse, the network of aMUSEd (Patil et al. 2024): convolutional blocks around a
transformer, adaptive norms, cross-attention to text. Called as `maskgit.py` says; grids inside are
(B, h, w, c). There is no position embedding: convolutions tell places apart.
"""

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from common.plans.transformer_plan import TransformerPlan
from torch_impl.layers.attention import Attention
from torch_impl.layers.dense import Dense, Embedding
from torch_impl.layers.dropout import Tensors, dropout, part
from torch_impl.layers.norms import GlobalResponseNorm
from torch_impl.layers.precision import at_least_float32, cast
from torch_impl.layers.stack import apply_layers
from torch_impl.models.maskgit import (
    Dtype,
    FeedForward,
    Modulation,
    adapted,
    is_prepared,
    kept,
    plan_attention,
    plan_norm,
    self_condition_layer,
    self_conditioned,
)


class MaskGiTUViT(nn.Module):
    """The network. `dtype` is that of the arithmetic, None: as the parameters.

    `checkpoint` recomputes every transformer layer in the backward pass to save memory.
    """

    def __init__(self, plan: TransformerPlan, *, dtype: Dtype = None, checkpoint: bool = False) -> None:
        super().__init__()
        options, C, c = plan.options, plan.options.hidden_size, plan.options.block_out_channels[0]
        bias = options.use_bias
        self.encoder_proj = Dense(options.encoder_hidden_size, C, bias=bias, dtype=dtype)
        self.encoder_proj_layer_norm = plan_norm(plan, C)
        self.embed = UViTEmbed(plan, dtype)
        self.cond_embed = (
            nn.ModuleDict(
                {
                    "0": Dense(plan.cond_inputs, C, bias=bias, dtype=dtype),
                    "2": Dense(C, C, bias=bias, dtype=dtype),
                }
            )
            if plan.cond_inputs
            else None
        )
        self.down_blocks = nn.ModuleList([UViTSide(plan, dtype, down=True)])
        self.project_to_hidden_norm = plan_norm(plan, c)
        self.project_to_hidden = Dense(c, C, bias=bias, dtype=dtype)
        self.self_cond_to_init_embed = self_condition_layer(plan, dtype)
        self.transformer_layers = nn.ModuleList(
            UViTLayer(plan, dtype) for _ in range(options.num_hidden_layers)
        )
        self.project_from_hidden_norm = plan_norm(plan, C)
        self.project_from_hidden = Dense(C, c, bias=bias, dtype=dtype)
        self.up_blocks = nn.ModuleList([UViTSide(plan, dtype, down=False)])
        self.mlm_layer = UViTMlmLayer(plan, dtype)
        self.plan, self.dtype, self.checkpoint = plan, dtype, checkpoint

    def prepare(self, condition: Tensors) -> dict[str, Tensor]:
        """Every attention's keys and values of the text, and what every adaptive norm gets. Also
        `prepared.cond_embed_in` and `prepared.cond_embed_out`."""
        if is_prepared(condition):
            return dict(condition)
        text = cast(condition["text"], self.dtype)
        context = kept(self.encoder_proj_layer_norm(self.encoder_proj(text)), condition)
        prepared, embedded = dict(condition), None
        if self.cond_embed is not None:
            given = cast(condition_vector(condition, self.plan), context.dtype)
            embedded = self.cond_embed["2"](F.silu(self.cond_embed["0"](given)))
            prepared |= {"prepared.cond_embed_in": given, "prepared.cond_embed_out": embedded}
        blocks = {"down_blocks.0": self.down_blocks[0], "up_blocks.0": self.up_blocks[0]}
        blocks |= {f"transformer_layers.{i}": layer for i, layer in enumerate(self.transformer_layers)}
        for name, block in blocks.items():
            found = block.prepare(context, embedded)
            prepared |= {f"prepared.{name}.{key}": value for key, value in found.items()}
        return prepared

    def forward(
        self, ids: Tensor, condition: Tensors, noise: Tensors | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Beside `embed`: `cond_embed_in`, `cond_embed_out` (B, C), the grids `hs_embed`, `down_out` and
        `up_out`, and `hs_layer<i>`, what the layer's feed-forward part adds."""
        states, uniforms = part(self.prepare(condition), "prepared"), part(noise, "dropout")
        mask = condition.get("text_mask")
        aux = {name: states[name] for name in ("cond_embed_in", "cond_embed_out") if name in states}
        x = self.embed(ids)
        aux["hs_embed"] = x
        x = self.down_blocks[0](x, mask, part(states, "down_blocks.0"), part(uniforms, "down_blocks.0"))
        aux["down_out"] = x
        height = x.shape[1]
        x = self.project_to_hidden(self.project_to_hidden_norm(rearrange(x, "b h w c -> b (h w) c")))
        x = self_conditioned(x, self.self_cond_to_init_embed, condition, self.plan)
        names = [f"transformer_layers.{i}" for i in range(len(self.transformer_layers))]
        own = [(part(states, name), part(uniforms, name)) for name in names]
        x, found = apply_layers(self.transformer_layers, x, (mask,), own, checkpoint=self.checkpoint)
        aux |= {f"hs_layer{i}": value for i, value in enumerate(found)} | {"embed": x}
        x = self.project_from_hidden(self.project_from_hidden_norm(x))
        x = rearrange(x, "b (h w) c -> b h w c", h=height)
        x = self.up_blocks[0](x, mask, part(states, "up_blocks.0"), part(uniforms, "up_blocks.0"))
        aux["up_out"] = x
        logits = at_least_float32(self.mlm_layer(x))
        return rearrange(logits, "b h w k -> b (h w) k"), aux


class UViTSide(nn.Module):
    """Convolutional blocks and cross-attention on one side of the transformer, after halving or before
    doubling the grid where that is wanted."""

    def __init__(self, plan: TransformerPlan, dtype: Dtype, *, down: bool) -> None:
        super().__init__()
        options = plan.options
        resampled = options.force_down_up_sample
        self.downsample = Resample(plan, dtype, down=True) if resampled and down else None
        self.res_blocks = nn.ModuleList(ResBlock(plan, dtype) for _ in range(options.num_res_blocks))
        self.attention_blocks = nn.ModuleList(
            AttentionBlock2D(plan, dtype) for _ in range(options.num_res_blocks)
        )
        self.upsample = Resample(plan, dtype, down=False) if resampled and not down else None

    def prepare(self, context: Tensor, embedded: Tensor | None) -> dict[str, Tensor]:
        """Of text states (B, S, C) and embedded condition (B, C): what the blocks take of them."""
        prepared = {}
        for j, (block, attention) in enumerate(zip(self.res_blocks, self.attention_blocks, strict=True)):
            found = attention.prepare(context)
            prepared |= {f"attention_blocks.{j}.{name}": value for name, value in found.items()}
            if block.adaLN_modulation is not None:
                prepared[f"res_blocks.{j}"] = block.adaLN_modulation(embedded)
        return prepared

    def forward(self, x: Tensor, mask: Tensor | None, prepared: Tensors, noise: Tensors) -> Tensor:
        """Grid (B, h, w, c) -> grid; `mask` (B, S) is the text's."""
        x = x if self.downsample is None else self.downsample(x)
        for j, (block, attention) in enumerate(zip(self.res_blocks, self.attention_blocks, strict=True)):
            name = f"attention_blocks.{j}"
            x = block(x, prepared.get(f"res_blocks.{j}"), noise.get(f"res_blocks.{j}.channelwise"))
            x = attention(x, mask, part(prepared, name), part(noise, name))
        return x if self.upsample is None else self.upsample(x)


class ResBlock(nn.Module):
    """ConvNeXt V2 block, then factor and summand of the condition: (B, h, w, c) -> (B, h, w, c)."""

    def __init__(self, plan: TransformerPlan, dtype: Dtype) -> None:
        super().__init__()
        options, c = plan.options, plan.options.block_out_channels[0]
        self.depthwise = Depthwise(c, options.use_bias, dtype)
        self.norm = nn.ModuleDict({"norm": plan_norm(plan, c)})
        self.channelwise = nn.ModuleDict(
            {
                "0": Dense(c, 4 * c, bias=options.use_bias, dtype=dtype),
                "2": GlobalResponseNorm(4 * c),
                "4": Dense(4 * c, c, bias=options.use_bias, dtype=dtype),
            }
        )
        self.adaLN_modulation = Modulation(plan, c, dtype) if plan.cond_inputs else None
        self.rate = options.hidden_dropout

    def forward(self, x: Tensor, modulation: Tensor | None, noise: Tensor | None) -> Tensor:
        y = self.channelwise["0"](self.norm["norm"](self.depthwise(x)))
        y = dropout(self.channelwise["2"](F.gelu(y)), noise, self.rate)
        return adapted(x + self.channelwise["4"](y), modulation)


class AttentionBlock2D(nn.Module):
    """Two cross-attentions to the text, one after the other: (B, h, w, c) -> (B, h, w, c)."""

    def __init__(self, plan: TransformerPlan, dtype: Dtype) -> None:
        super().__init__()
        options, C, c = plan.options, plan.options.hidden_size, plan.options.block_out_channels[0]
        bias, heads, rate = options.use_bias, options.block_num_heads, options.attention_dropout
        self.kv_mapper = Dense(C, c, bias=bias, dtype=dtype) if c != C else None
        self.attn_layer_norm = plan_norm(plan, c)
        self.attention = Attention(c, heads, bias=bias, rate=rate, dtype=dtype)
        self.crossattn_layer_norm = plan_norm(plan, c)
        self.crossattention = Attention(c, heads, bias=bias, rate=rate, dtype=dtype)

    def prepare(self, context: Tensor) -> dict[str, Tensor]:
        """Both attentions' keys and values of text states (B, S, C)."""
        context = context if self.kv_mapper is None else self.kv_mapper(F.silu(context))
        first, second = self.attention.prepare(context), self.crossattention.prepare(context)
        prepared = {f"attention.{name}": value for name, value in first.items()}
        return prepared | {f"crossattention.{name}": value for name, value in second.items()}

    def forward(self, x: Tensor, mask: Tensor | None, prepared: Tensors, noise: Tensors) -> Tensor:
        height, x = x.shape[1], rearrange(x, "b h w c -> b (h w) c")
        states = part(prepared, "attention")
        x = x + self.attention(self.attn_layer_norm(x), states, mask, noise.get("attention"))
        states = part(prepared, "crossattention")
        x = x + self.crossattention(self.crossattn_layer_norm(x), states, mask, noise.get("crossattention"))
        return rearrange(x, "b (h w) c -> b h w c", h=height)


class UViTLayer(nn.Module):
    """Self-attention, cross-attention, feed-forward, each after an adaptive norm."""

    def __init__(self, plan: TransformerPlan, dtype: Dtype) -> None:
        super().__init__()
        C, adaptive = plan.options.hidden_size, plan.cond_inputs > 0
        self.attn_layer_norm = plan_norm(plan, C)
        self.self_attn_adaLN_modulation = Modulation(plan, C, dtype) if adaptive else None
        self.attention = plan_attention(plan, dtype)
        self.crossattn_layer_norm = plan_norm(plan, C)
        self.crossattention = plan_attention(plan, dtype)
        self.cross_attn_adaLN_modulation = Modulation(plan, C, dtype) if adaptive else None
        self.ffn = FeedForward(plan, dtype)

    def prepare(self, context: Tensor, embedded: Tensor | None) -> dict[str, Tensor]:
        """Keys and values of text states (B, S, C), and of the condition (B, C) three modulations."""
        prepared = self.crossattention.prepare(context)
        modulations = {
            "self": self.self_attn_adaLN_modulation,
            "cross": self.cross_attn_adaLN_modulation,
            "ffn": self.ffn.adaLN_modulation,
        }
        return prepared | {
            name: module(embedded) for name, module in modulations.items() if module is not None
        }

    def forward(
        self, x: Tensor, mask: Tensor | None, prepared: Tensors, noise: Tensors
    ) -> tuple[Tensor, Tensor]:
        """x (B, L, C) -> x and what the feed-forward part added to it."""
        y = adapted(self.attn_layer_norm(x), prepared.get("self"))
        x = x + self.attention(y, noise=noise.get("attention"))
        y = adapted(self.crossattn_layer_norm(x), prepared.get("cross"))
        x = x + self.crossattention(y, prepared, mask, noise.get("crossattention"))
        y = self.ffn(x, prepared.get("ffn"), noise.get("ffn"))
        return x + y, y


class UViTEmbed(nn.Module):
    """Embedding, norm, 1x1 convolution: ids (B, L) -> (B, h, w, c)."""

    def __init__(self, plan: TransformerPlan, dtype: Dtype) -> None:
        super().__init__()
        options, c = plan.options, plan.options.block_out_channels[0]
        self.embeddings = Embedding(plan.vocab_size, options.in_channels, dtype=dtype)
        self.layer_norm = plan_norm(plan, options.in_channels)
        self.conv = Dense(options.in_channels, c, bias=options.use_bias, pointwise=True, dtype=dtype)
        self.grid = plan.grid

    def forward(self, ids: Tensor) -> Tensor:
        x = self.conv(self.layer_norm(self.embeddings(ids)))
        return rearrange(x, "b (h w) c -> b h w c", h=self.grid)


class UViTMlmLayer(nn.Module):
    """1x1 convolution, norm, 1x1 convolution: (B, h, w, c) -> (B, h, w, outputs)."""

    def __init__(self, plan: TransformerPlan, dtype: Dtype) -> None:
        super().__init__()
        options, c = plan.options, plan.options.block_out_channels[0]
        bias, inner = options.use_bias, options.in_channels
        self.conv1 = Dense(c, inner, bias=bias, pointwise=True, dtype=dtype)
        self.layer_norm = nn.ModuleDict({"norm": plan_norm(plan, inner)})
        self.conv2 = Dense(inner, plan.outputs, bias=bias, pointwise=True, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.layer_norm["norm"](self.conv1(x)))


class Depthwise(nn.Module):
    """3x3 convolution of every channel by itself: (B, h, w, c) -> (B, h, w, c)."""

    def __init__(self, channels: int, bias: bool, dtype: Dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(channels, 1, 3, 3))
        self.bias = nn.Parameter(torch.zeros(channels)) if bias else None
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else cast(self.bias, self.dtype)
        x, weight = rearrange(cast(x, self.dtype), "b h w c -> b c h w"), cast(self.weight, self.dtype)
        y = F.conv2d(x, weight, bias, padding=1, groups=len(weight))
        return rearrange(y, "b c h w -> b h w c")


class Resample(nn.ModuleDict):
    """Norm, 2x2 convolution of stride 2, or transposed one: (B, h, w, c) -> half or twice the side."""

    def __init__(self, plan: TransformerPlan, dtype: Dtype, *, down: bool) -> None:
        c, bias = plan.options.block_out_channels[0], plan.options.use_bias
        norm = nn.ModuleDict({"norm": plan_norm(plan, c)})
        super().__init__({"0": norm, "1": Patches(c, bias, dtype, down=down)})

    def forward(self, x: Tensor) -> Tensor:
        return self["1"](self["0"]["norm"](x))


class Patches(nn.Module):
    """2x2 convolution of stride 2, kernel (out, in, 2, 2), or transposed one, kernel (in, out, 2, 2)."""

    def __init__(self, channels: int, bias: bool, dtype: Dtype, *, down: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(channels, channels, 2, 2))
        self.bias = nn.Parameter(torch.zeros(channels)) if bias else None
        self.down, self.dtype = down, dtype

    def forward(self, x: Tensor) -> Tensor:
        x, weight = cast(x, self.dtype), cast(self.weight, self.dtype)
        if self.down:
            x = rearrange(x, "b (h s) (w t) c -> b h w (s t c)", s=2, t=2)
            y = F.linear(x, rearrange(weight, "o i s t -> o (s t i)"))
        else:
            y = F.linear(x, rearrange(weight, "i o s t -> (s t o) i"))
            y = rearrange(y, "b h w (s t c) -> b (h s) (w t) c", s=2, t=2)
        return y if self.bias is None else y + rearrange(cast(self.bias, self.dtype), "c -> 1 1 1 c")


def condition_vector(condition: Tensors, plan: TransformerPlan) -> Tensor:
    """Pooled text state, then the encoded micro-conditions: (B, P + 5 E), as far as the plan has them."""
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
