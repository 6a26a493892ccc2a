"""Convolutional blocks of the U-ViT: ConvNeXt V2 (Woo et al. 2023) with cross-attention to text. Grids are
(B, h, w, c)."""

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax import Array

from dioscuri.families.maskgit.plan import TransformerPlan
from jax_impl.layers.attention import Attention
from jax_impl.layers.convolution import Conv
from jax_impl.layers.dense import Linear, broadcast
from jax_impl.layers.dropout import Dropout
from jax_impl.layers.named import Arrays, under
from jax_impl.layers.norms import GlobalResponseNorm
from jax_impl.models.maskgit import (
    Modulation,
    adapted,
    plan_norm,
)


class UViTSide(nnx.Module):
    """Convolutional blocks and cross-attention on one side of the transformer; optionally, the grid is halved
    before them or doubled after them."""

    def __init__(self, plan: TransformerPlan, *, down: bool) -> None:
        options = plan.options
        resampled = options.force_down_up_sample
        self.downsample = Resample(plan, down=True) if resampled and down else None
        self.res_blocks = nnx.List([ResBlock(plan) for _ in range(options.num_res_blocks)])
        self.attention_blocks = nnx.List([AttentionBlock2D(plan) for _ in range(options.num_res_blocks)])
        self.upsample = Resample(plan, down=False) if resampled and not down else None

    def prepare(self, context: Array, embedded: Array | None) -> dict[str, Array]:
        """Keys, values and modulations for the blocks, from text states (B, S, C) and condition (B, C)."""
        prepared: dict[str, Array] = {}
        for j, (block, attention) in enumerate(zip(self.res_blocks, self.attention_blocks, strict=True)):
            states = attention.prepare(context)
            prepared |= {f"attention_blocks.{j}.{name}": value for name, value in states.items()}
            if block.adaLN_modulation is not None and embedded is not None:
                prepared[f"res_blocks.{j}"] = block.adaLN_modulation(embedded)
        return prepared

    def __call__(self, x: Array, mask: Array | None, prepared: Arrays, noise: Arrays) -> Array:
        """Grid (B, h, w, c) -> grid; `mask` (B, S) is the text's."""
        x = x if self.downsample is None else self.downsample(x)
        for j, (block, attention) in enumerate(zip(self.res_blocks, self.attention_blocks, strict=True)):
            name = f"attention_blocks.{j}"
            x = block(x, prepared.get(f"res_blocks.{j}"), noise.get(f"res_blocks.{j}.channelwise"))
            x = attention(x, mask, under(prepared, name), under(noise, name))
        return x if self.upsample is None else self.upsample(x)


class ResBlock(nnx.Module):
    """ConvNeXt V2 block, then scale and shift by the condition: (B, h, w, c) -> (B, h, w, c)."""

    def __init__(self, plan: TransformerPlan) -> None:
        options, c = plan.options, plan.options.block_out_channels[0]
        self.depthwise = Depthwise(c, options.use_bias)
        self.norm = nnx.Dict({"norm": plan_norm(plan, c)})
        self.channelwise = nnx.Dict(
            {
                "0": Linear(c, 4 * c, use_bias=options.use_bias),
                "2": GlobalResponseNorm(4 * c),
                "4": Linear(4 * c, c, use_bias=options.use_bias),
            }
        )
        self.adaLN_modulation = Modulation(plan, c) if plan.cond_inputs else None
        self.dropout = Dropout(options.hidden_dropout)

    def __call__(self, x: Array, modulation: Array | None, noise: Array | None) -> Array:
        y = self.channelwise["0"](self.norm["norm"](self.depthwise(x)))
        y = self.dropout(self.channelwise["2"](jax.nn.gelu(y, approximate=False)), noise)
        return adapted(x + self.channelwise["4"](y), modulation)


class AttentionBlock2D(nnx.Module):
    """Two cross-attentions to the text, one after the other: (B, h, w, c) -> (B, h, w, c)."""

    def __init__(self, plan: TransformerPlan) -> None:
        options, C, c = plan.options, plan.options.hidden_size, plan.options.block_out_channels[0]
        bias, heads, rate = options.use_bias, options.block_num_heads, options.attention_dropout
        self.kv_mapper = Linear(C, c, use_bias=bias) if c != C else None
        self.attn_layer_norm = plan_norm(plan, c)
        self.attention = Attention(c, heads, bias=bias, rate=rate)
        self.crossattn_layer_norm = plan_norm(plan, c)
        self.crossattention = Attention(c, heads, bias=bias, rate=rate)

    def prepare(self, context: Array) -> dict[str, Array]:
        """Both attentions' keys and values of text states (B, S, C)."""
        context = context if self.kv_mapper is None else self.kv_mapper(jax.nn.silu(context))
        first, second = self.attention.prepare(context), self.crossattention.prepare(context)
        prepared = {f"attention.{name}": value for name, value in first.items()}
        return prepared | {f"crossattention.{name}": value for name, value in second.items()}

    def __call__(self, x: Array, mask: Array | None, prepared: Arrays, noise: Arrays) -> Array:
        height, x = x.shape[1], rearrange(x, "b h w c -> b (h w) c")
        states = under(prepared, "attention")
        x = x + self.attention(self.attn_layer_norm(x), states, mask, noise.get("attention"))
        states = under(prepared, "crossattention")
        x = x + self.crossattention(self.crossattn_layer_norm(x), states, mask, noise.get("crossattention"))
        return rearrange(x, "b (h w) c -> b h w c", h=height)


class Depthwise(Conv):
    """Depthwise 3x3 convolution: (B, h, w, c) -> (B, h, w, c)."""

    def __init__(self, channels: int, bias: bool) -> None:
        super().__init__(channels, channels, (3, 3), groups=channels, use_bias=bias)


class Resample(nnx.Dict):
    """Norm, then a 2x2 convolution of stride 2 or its transpose: (B, h, w, c) -> half or twice the side."""

    def __init__(self, plan: TransformerPlan, *, down: bool) -> None:
        c, bias = plan.options.block_out_channels[0], plan.options.use_bias
        norm = nnx.Dict({"norm": plan_norm(plan, c)})
        super().__init__({"0": norm, "1": PatchIn(c, bias) if down else PatchOut(c, bias)})

    def __call__(self, x: Array) -> Array:
        return self["1"](self["0"]["norm"](x))


class PatchIn(Conv):
    """2x2 convolution of stride 2: (B, 2 h, 2 w, c) -> (B, h, w, c)."""

    def __init__(self, channels: int, bias: bool) -> None:
        super().__init__(channels, channels, (2, 2), 2, use_bias=bias)

    def __call__(self, x: Array) -> Array:  # type: ignore[override]  # nnx's takes a sharding, too
        """Patches do not overlap, so this is a matrix product."""
        x = rearrange(x, "b (h s) (w t) c -> b h w (s t c)", s=2, t=2)
        y = jnp.dot(x, rearrange(self.kernel[...], "s t i o -> (s t i) o"))
        return y if self.bias is None else y + broadcast(self.bias[...], y)


class PatchOut(nnx.Module):
    """Transposed 2x2 convolution of stride 2, kernel (2, 2, out, in): (B, h, w, c) -> (B, 2 h, 2 w, c)."""

    def __init__(self, channels: int, bias: bool) -> None:
        self.kernel = nnx.Param(jnp.zeros((2, 2, channels, channels)))
        self.bias = nnx.Param(jnp.zeros(channels)) if bias else None

    def __call__(self, x: Array) -> Array:
        """Patches do not overlap, so this is a matrix product."""
        y = jnp.dot(x, rearrange(self.kernel[...], "s t o i -> i (s t o)"))
        y = rearrange(y, "b h w (s t c) -> b (h s) (w t) c", s=2, t=2)
        return y if self.bias is None else y + broadcast(self.bias[...], y)
