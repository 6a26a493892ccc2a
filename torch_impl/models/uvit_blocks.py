"""Convolutional blocks of the U-ViT: ConvNeXt V2 (Woo et al. 2023) with cross-attention to text. Grids are
(B, h, w, c)."""

from typing import Any

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from dioscuri.families.maskgit.plan import TransformerPlan
from torch_impl.layers.attention import Attention
from torch_impl.layers.dropout import Dropout
from torch_impl.layers.named import Tensors, under
from torch_impl.layers.norms import GlobalResponseNorm
from torch_impl.models.maskgit import (
    Modulation,
    adapted,
    plan_norm,
)


class UViTSide(nn.Module):
    """Convolutional blocks and cross-attention on one side of the transformer; optionally, the grid is halved
    before them or doubled after them."""

    def __init__(self, plan: TransformerPlan, *, down: bool) -> None:
        super().__init__()
        options = plan.options
        resampled = options.force_down_up_sample
        self.downsample = Resample(plan, down=True) if resampled and down else None
        self.res_blocks: Any = nn.ModuleList(ResBlock(plan) for _ in range(options.num_res_blocks))
        self.attention_blocks: Any = nn.ModuleList(
            AttentionBlock2D(plan) for _ in range(options.num_res_blocks)
        )
        self.upsample = Resample(plan, down=False) if resampled and not down else None

    def prepare(self, context: Tensor, embedded: Tensor | None) -> dict[str, Tensor]:
        """Keys, values and modulations for the blocks, from text states (B, S, C) and condition (B, C)."""
        prepared: dict[str, Tensor] = {}
        for j, (block, attention) in enumerate(zip(self.res_blocks, self.attention_blocks, strict=True)):
            states = attention.prepare(context)
            prepared |= {f"attention_blocks.{j}.{name}": value for name, value in states.items()}
            if block.adaLN_modulation is not None and embedded is not None:
                prepared[f"res_blocks.{j}"] = block.adaLN_modulation(embedded)
        return prepared

    def forward(self, x: Tensor, mask: Tensor | None, prepared: Tensors, noise: Tensors) -> Tensor:
        """Grid (B, h, w, c) -> grid; `mask` (B, S) is the text's."""
        x = x if self.downsample is None else self.downsample(x)
        for j, (block, attention) in enumerate(zip(self.res_blocks, self.attention_blocks, strict=True)):
            name = f"attention_blocks.{j}"
            x = block(x, prepared.get(f"res_blocks.{j}"), noise.get(f"res_blocks.{j}.channelwise"))
            x = attention(x, mask, under(prepared, name), under(noise, name))
        return x if self.upsample is None else self.upsample(x)


class ResBlock(nn.Module):
    """ConvNeXt V2 block, then scale and shift by the condition: (B, h, w, c) -> (B, h, w, c)."""

    def __init__(self, plan: TransformerPlan) -> None:
        super().__init__()
        options, c = plan.options, plan.options.block_out_channels[0]
        self.depthwise = Depthwise(c, options.use_bias)
        self.norm = nn.ModuleDict({"norm": plan_norm(plan, c)})
        self.channelwise = nn.ModuleDict(
            {
                "0": nn.Linear(c, 4 * c, bias=options.use_bias),
                "2": GlobalResponseNorm(4 * c),
                "4": nn.Linear(4 * c, c, bias=options.use_bias),
            }
        )
        self.adaLN_modulation = Modulation(plan, c) if plan.cond_inputs else None
        self.dropout = Dropout(options.hidden_dropout)

    def forward(self, x: Tensor, modulation: Tensor | None, noise: Tensor | None) -> Tensor:
        y = self.channelwise["0"](self.norm["norm"](self.depthwise(x)))
        y = self.dropout(self.channelwise["2"](F.gelu(y)), noise)
        return adapted(x + self.channelwise["4"](y), modulation)


class AttentionBlock2D(nn.Module):
    """Two cross-attentions to the text, one after the other: (B, h, w, c) -> (B, h, w, c)."""

    def __init__(self, plan: TransformerPlan) -> None:
        super().__init__()
        options, C, c = plan.options, plan.options.hidden_size, plan.options.block_out_channels[0]
        bias, heads, rate = options.use_bias, options.block_num_heads, options.attention_dropout
        self.kv_mapper = nn.Linear(C, c, bias=bias) if c != C else None
        self.attn_layer_norm = plan_norm(plan, c)
        self.attention = Attention(c, heads, bias=bias, rate=rate)
        self.crossattn_layer_norm = plan_norm(plan, c)
        self.crossattention = Attention(c, heads, bias=bias, rate=rate)

    def prepare(self, context: Tensor) -> dict[str, Tensor]:
        """Both attentions' keys and values of text states (B, S, C)."""
        context = context if self.kv_mapper is None else self.kv_mapper(F.silu(context))
        first, second = self.attention.prepare(context), self.crossattention.prepare(context)
        prepared = {f"attention.{name}": value for name, value in first.items()}
        return prepared | {f"crossattention.{name}": value for name, value in second.items()}

    def forward(self, x: Tensor, mask: Tensor | None, prepared: Tensors, noise: Tensors) -> Tensor:
        height, x = x.shape[1], rearrange(x, "b h w c -> b (h w) c")
        states = under(prepared, "attention")
        x = x + self.attention(self.attn_layer_norm(x), states, mask, noise.get("attention"))
        states = under(prepared, "crossattention")
        x = x + self.crossattention(self.crossattn_layer_norm(x), states, mask, noise.get("crossattention"))
        return rearrange(x, "b (h w) c -> b h w c", h=height)


class Depthwise(nn.Conv2d):
    """Depthwise 3x3 convolution: (B, h, w, c) -> (B, h, w, c)."""

    def __init__(self, channels: int, bias: bool) -> None:
        super().__init__(channels, channels, 3, padding=1, groups=channels, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return rearrange(super().forward(rearrange(x, "b h w c -> b c h w")), "b c h w -> b h w c")


class Resample(nn.ModuleDict):
    """Norm, then a 2x2 convolution of stride 2 or its transpose: (B, h, w, c) -> half or twice the side."""

    def __init__(self, plan: TransformerPlan, *, down: bool) -> None:
        c, bias = plan.options.block_out_channels[0], plan.options.use_bias
        norm = nn.ModuleDict({"norm": plan_norm(plan, c)})
        super().__init__({"0": norm, "1": PatchIn(c, bias) if down else PatchOut(c, bias)})

    def forward(self, x: Tensor) -> Tensor:
        norm: Any = self["0"]
        return self["1"](norm["norm"](x))


class PatchIn(nn.Conv2d):
    """2x2 convolution of stride 2: (B, 2 h, 2 w, c) -> (B, h, w, c)."""

    def __init__(self, channels: int, bias: bool) -> None:
        super().__init__(channels, channels, 2, 2, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Patches do not overlap, so this is a matrix product."""
        x = rearrange(x, "b (h s) (w t) c -> b h w (s t c)", s=2, t=2)
        return F.linear(x, rearrange(self.weight, "o i s t -> o (s t i)"), self.bias)


class PatchOut(nn.ConvTranspose2d):
    """Transposed 2x2 convolution of stride 2: (B, h, w, c) -> (B, 2 h, 2 w, c)."""

    def __init__(self, channels: int, bias: bool) -> None:
        super().__init__(channels, channels, 2, 2, bias=bias)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]  # no output_size
        """Patches do not overlap, so this is a matrix product."""
        y = F.linear(x, rearrange(self.weight, "i o s t -> (s t o) i"))
        y = rearrange(y, "b h w (s t c) -> b (h s) (w t) c", s=2, t=2)
        return y if self.bias is None else y + self.bias
