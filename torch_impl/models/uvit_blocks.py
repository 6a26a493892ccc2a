"""Convolutional blocks of the U-ViT: ConvNeXt V2 (Woo et al. 2023) with cross-attention to text. Grids are
(B, h, w, c)."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from dioscuri.families.maskgit.plan import TransformerPlan
from torch_impl.layers.attention import Attention
from torch_impl.layers.dense import Dense
from torch_impl.layers.dropout import Tensors, dropout, part
from torch_impl.layers.norms import GlobalResponseNorm
from torch_impl.layers.precision import cast
from torch_impl.models.maskgit import (
    Dtype,
    Modulation,
    adapted,
    plan_norm,
)


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
