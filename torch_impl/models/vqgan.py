"""Image tokenizers: MaskGIT's (Chang et al. 2022), VQGAN (Esser et al. 2021) and MoVQ (Zheng et al. 2022).

Pictures are (B, H, W, C) in the plan's range, vectors and codes (B, h, w, D), indices (B, h, w). Inside,
tensors are NCHW with channels last in memory. Names of the parts are those of the published weights.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute

from dioscuri.families.vqgan.plan import Block, Level, TokenizerPlan
from torch_impl.layers.precision import at_least_float32
from torch_impl.layers.quantizers import GumbelCodes, Quantised, assigned_codebook, make_quantizer
from torch_impl.layers.resnet import (
    Convolution,
    GridAttention,
    GroupNorm,
    ResnetBlock,
    SpatialNorm,
    double,
    halve,
)
from torch_impl.models.dcvae import SpectralDecoder, SpectralEncoder
from torch_impl.models.paella import PaellaDecoder, PaellaEncoder
from torch_impl.models.residual_tokenizer import ResidualDecoder, ResidualEncoder
from torch_impl.pretrained import Pretrained

__all__ = ["Quantised", "Tokenizer", "assigned_codebook", "build_tokenizer"]

Tensors = Mapping[str, Tensor]
Dtype = torch.dtype | None


class Blocks(nn.Module):
    """Residual blocks of one resolution, each with attention behind it where the plan has it."""

    def __init__(self, plan: TokenizerPlan, blocks: tuple[Block, ...], dtype: Dtype) -> None:
        super().__init__()
        self.blocks, self.plan = blocks, plan
        self.block = nn.ModuleList(_resnet_block(plan, block, dtype) for block in blocks)
        if blocks[0].attention:
            self.attn = nn.ModuleList(_attention(plan, block, dtype) for block in blocks)

    def forward(self, x: Tensor, noise: Tensors, recomputed: bool, codes: Tensor | None = None) -> Tensor:
        for j, block in enumerate(self.blocks):
            x = _call(self.block[j], recomputed, x, noise.get(block.name), codes)
            if block.attends:
                x = _call(self.attn[j], recomputed, x, codes)
        return x


class Resampling(nn.Module):
    """The convolution beside pooling or upsampling."""

    def __init__(self, width: int, stride: int, dtype: Dtype) -> None:
        super().__init__()
        self.conv = Convolution(width, width, 3, stride=stride, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Down(Blocks):
    """A level of the encoder: blocks, then half of the resolution."""

    def __init__(self, plan: TokenizerPlan, level: Level, dtype: Dtype) -> None:
        super().__init__(plan, level.blocks, dtype)
        self.resamples = level.resamples
        strided = level.resamples and plan.taming and plan.options.resample_with_conv
        self.downsample = Resampling(level.width, 2, dtype) if strided else None

    def forward(self, x: Tensor, noise: Tensors, recomputed: bool, codes: Tensor | None = None) -> Tensor:
        x = super().forward(x, noise, recomputed, codes)
        if not self.resamples:
            return x
        return halve(x) if self.downsample is None else self.downsample(x)


class Up(Blocks):
    """A level of the decoder: blocks, then twice the resolution."""

    def __init__(self, plan: TokenizerPlan, level: Level, dtype: Dtype) -> None:
        super().__init__(plan, level.blocks, dtype)
        self.resamples = level.resamples
        width, taming = level.width, plan.taming
        smooths = level.resamples and plan.options.resample_with_conv
        self.upsample = Resampling(width, 1, dtype) if smooths and taming else None
        plain = level.resamples and not taming
        self.upsample_conv = Convolution(width, width, 3, dtype=dtype) if plain else None

    def forward(self, x: Tensor, noise: Tensors, recomputed: bool, codes: Tensor | None = None) -> Tensor:
        x = super().forward(x, noise, recomputed, codes)
        if not self.resamples:
            return x
        x = double(x)
        if self.upsample_conv is not None:
            return self.upsample_conv(x)
        return x if self.upsample is None else self.upsample(x)


class TamingMid(nn.Module):
    """Two blocks of the coarsest resolution with attention between them."""

    def __init__(self, plan: TokenizerPlan, blocks: tuple[Block, ...], dtype: Dtype) -> None:
        super().__init__()
        self.blocks = blocks
        self.block_1 = _resnet_block(plan, blocks[0], dtype)
        self.attn_1 = _attention(plan, blocks[0], dtype) if blocks[0].attention else None
        self.block_2 = _resnet_block(plan, blocks[1], dtype)

    def forward(self, x: Tensor, noise: Tensors, recomputed: bool, codes: Tensor | None = None) -> Tensor:
        x = _call(self.block_1, recomputed, x, noise.get(self.blocks[0].name), codes)
        x = x if self.attn_1 is None else _call(self.attn_1, recomputed, x, codes)
        return _call(self.block_2, recomputed, x, noise.get(self.blocks[1].name), codes)


class PlainMid(nn.ModuleList):
    """Blocks of the coarsest resolution."""

    def __init__(self, plan: TokenizerPlan, blocks: tuple[Block, ...], dtype: Dtype) -> None:
        super().__init__(_resnet_block(plan, block, dtype) for block in blocks)
        self.blocks = blocks

    def forward(self, x: Tensor, noise: Tensors, recomputed: bool, codes: Tensor | None = None) -> Tensor:
        for layer, block in zip(self, self.blocks, strict=True):
            x = _call(layer, recomputed, x, noise.get(block.name), codes)
        return x


class Encoder(nn.Module):
    """(B, C, H, W) -> (B, z_channels, h, w)."""

    def __init__(self, plan: TokenizerPlan, dtype: Dtype, recomputed: bool) -> None:
        super().__init__()
        options, top = plan.options, plan.encoder[-1].width
        self.conv_in = Convolution(plan.channels, options.hidden_channels, 3, bias=plan.taming, dtype=dtype)
        self.down = nn.ModuleList(Down(plan, level, dtype) for level in plan.encoder)
        self.mid = (TamingMid if plan.taming else PlainMid)(plan, plan.encoder_mid, dtype)
        self.norm_out = GroupNorm(top, options.norm_groups)
        self.conv_out = Convolution(top, options.z_channels, 3 if plan.taming else 1, dtype=dtype)
        self.recomputed = recomputed

    def forward(self, x: Tensor, noise: Tensors) -> Tensor:
        x = self.conv_in(x)
        for level in self.down:
            x = level(x, noise, self.recomputed)
        x = self.mid(x, noise, self.recomputed)
        return self.conv_out(F.silu(self.norm_out(x)))


class Decoder(nn.Module):
    """(B, z_channels, h, w) -> (B, F, H, W), what the last convolution makes a picture of, beside the codes
    (B, D, h, w), which may modulate it."""

    def __init__(self, plan: TokenizerPlan, dtype: Dtype, recomputed: bool) -> None:
        super().__init__()
        options, finest = plan.options, plan.decoder[0].width
        self.conv_in = Convolution(options.z_channels, plan.decoder[-1].width, 3, dtype=dtype)
        self.mid = (TamingMid if plan.taming else PlainMid)(plan, plan.decoder_mid, dtype)
        self.up = nn.ModuleList(Up(plan, level, dtype) for level in plan.decoder)
        self.norm_out = _norm_out(plan, finest, dtype)
        self.modulated = plan.modulated
        self.conv_out = Convolution(finest, plan.channels, 3, dtype=dtype)
        self.recomputed = recomputed

    def forward(self, x: Tensor, noise: Tensors, codes: Tensor) -> Tensor:
        given = codes if self.modulated else None
        x = self.mid(self.conv_in(x), noise, self.recomputed, given)
        for level in reversed(self.up):
            x = level(x, noise, self.recomputed, given)
        return F.silu(self.norm_out(x) if given is None else self.norm_out(x, given))


class Tokenizer(Pretrained, nn.Module):
    """Encoder, quantiser and decoder."""

    def __init__(self, plan: TokenizerPlan, dtype: Dtype = None, checkpoint: bool = False) -> None:
        super().__init__()
        options = plan.options
        self.plan = plan
        encoder, decoder = _parts(plan)
        self.encoder = encoder(plan, dtype, checkpoint)
        self.quantize = make_quantizer(options)
        self.decoder = decoder(plan, dtype, checkpoint)
        D, Z = options.embedding_dim, options.z_channels
        self.quant_conv = Convolution(Z, D, 1, dtype=dtype) if plan.taming else None
        self.post_quant_conv = Convolution(D, Z, 1, dtype=dtype) if plan.taming else None

    def forward(self, x: Tensor, noise: Tensors | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Reconstructions (B, H, W, C), not clamped, and what was computed on the way."""
        z = self.encode(x, noise)
        quantised = self.quantise(z, noise, train=True)
        made = self.output(self.decode_trunk(quantised.codes, noise))
        return made, {"z": z, "codes": quantised.codes, "indices": quantised.indices, **quantised.losses}

    def encode(self, x: Tensor, noise: Tensors | None = None) -> Tensor:
        """Pictures -> vectors that are to be quantised."""
        z = self.encoder(rearrange(x, "b h w c -> b c h w"), noise or {})
        z = z if self.quant_conv is None else self.quant_conv(z)
        return rearrange(z, "b c h w -> b h w c")

    def quantise(
        self,
        z: Tensor,
        noise: Tensors | None = None,
        scalars: Tensors | None = None,
        buffers: Tensors | None = None,
        *,
        train: bool = False,
    ) -> Quantised:
        """Codes of the vectors. A Gumbel quantiser trains with `gumbel` of the noise and
        `gumbel_temperature` of the scalars, without these at its first temperature."""
        if isinstance(self.quantize, GumbelCodes):
            temperature = (scalars or {}).get(
                "gumbel_temperature", self.quantize.options.gumbel_temperature[0]
            )
            return self.quantize(z, noise, temperature, train=train)
        return self.quantize(z, buffers, train=train)

    def decode_trunk(self, codes: Tensor, noise: Tensors | None = None) -> Tensor:
        """Codes -> (B, H, W, F), for `output`."""
        codes = rearrange(codes, "b h w c -> b c h w")
        x = codes if self.post_quant_conv is None else self.post_quant_conv(codes)
        return rearrange(self.decoder(x, noise or {}, codes), "b c h w -> b h w c")

    def output(self, trunk: Tensor) -> Tensor:
        """(B, H, W, F) -> pictures, not clamped."""
        x = self.decoder.conv_out(rearrange(trunk, "b h w c -> b c h w"))
        x = F.pixel_shuffle(x, 2) if self.plan.paella else x
        return rearrange(x, "b c h w -> b h w c")

    def decode(self, codes: Tensor) -> Tensor:
        """Codes -> pictures, not clamped."""
        return self.output(self.decode_trunk(codes))

    def decode_indices(self, indices: Tensor) -> Tensor:
        """Indices -> pictures, not clamped."""
        dtype = at_least_float32(self.decoder.conv_out.weight).dtype
        return self.decode(self.quantize.lookup(indices).to(dtype))


def build_tokenizer(plan: TokenizerPlan, dtype: Dtype = None, checkpoint: bool = False) -> Tokenizer:
    """The tokenizer of a plan. `checkpoint` recomputes blocks in the backward pass to save memory."""
    return Tokenizer(plan, dtype, checkpoint)


def _parts(plan: TokenizerPlan) -> tuple[Any, Any]:
    """Classes of the architecture's encoder and decoder."""
    if plan.residual is not None:
        return ResidualEncoder, ResidualDecoder
    if plan.spectral is not None:
        return SpectralEncoder, SpectralDecoder
    return (PaellaEncoder, PaellaDecoder) if plan.paella else (Encoder, Decoder)


def _resnet_block(plan: TokenizerPlan, block: Block, dtype: Dtype) -> ResnetBlock:
    options = plan.options
    return ResnetBlock(
        block.inputs,
        block.outputs,
        groups=options.norm_groups,
        bias=plan.taming,
        rate=options.dropout,
        legacy_shortcut=options.legacy_shortcut and not plan.taming,
        modulation=_modulation(plan, block),
        dtype=dtype,
    )


def _attention(plan: TokenizerPlan, block: Block, dtype: Dtype) -> GridAttention:
    groups, modulation = plan.options.norm_groups, _modulation(plan, block)
    return GridAttention(block.outputs, groups=groups, modulation=modulation, dtype=dtype)


def _modulation(plan: TokenizerPlan, block: Block) -> int:
    """Channels of the codes, for blocks of a decoder whose norms they modulate."""
    return plan.embedding_dim if plan.modulated and block.name.startswith("decoder.") else 0


def _norm_out(plan: TokenizerPlan, width: int, dtype: Dtype) -> GroupNorm | SpatialNorm:
    groups = plan.options.norm_groups
    if plan.modulated:
        return SpatialNorm(width, groups, plan.embedding_dim, dtype)
    return GroupNorm(width, groups)


def _call(layer: nn.Module, recomputed: bool, *arguments: Tensor | None) -> Tensor:
    return recompute(layer, *arguments, use_reentrant=False) if recomputed else layer(*arguments)
