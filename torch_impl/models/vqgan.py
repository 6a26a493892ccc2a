"""Image tokenizers: MaskGIT's (Chang et al. 2022), VQGAN (Esser et al. 2021), MoVQ (Zheng et al. 2022) and
VQGAN+ (Weber et al. 2024).

Pictures are (B, H, W, C) in the plan's range, vectors and codes (B, h, w, D), indices (B, h, w). Inside,
tensors are NCHW with channels last in memory. Modules have the names of the published weights.
"""

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from dioscuri.families.vqgan.plan import Block, Level, TokenizerPlan
from torch_impl.layers.precision import weights_dtype
from torch_impl.layers.quantizers import (
    GaussianPosterior,
    GumbelCodes,
    Quantised,
    averaged_codebook,
    make_quantizer,
)
from torch_impl.layers.resnet import (
    GridAttention,
    Halved,
    ResnetBlock,
    SpatialNorm,
    double,
    group_norm,
    halve,
)
from torch_impl.layers.stack import call
from torch_impl.models.dcvae import SpectralDecoder, SpectralEncoder
from torch_impl.models.paella import PaellaDecoder, PaellaEncoder
from torch_impl.models.residual_tokenizer import ResidualDecoder, ResidualEncoder
from torch_impl.pretrained import Pretrained

__all__ = ["Quantised", "Tokenizer", "averaged_codebook"]

Tensors = Mapping[str, Tensor]


class Blocks(nn.Module):
    """Residual blocks of one resolution, each followed by attention if the plan says so."""

    def __init__(self, plan: TokenizerPlan, blocks: tuple[Block, ...]) -> None:
        super().__init__()
        self.blocks, self.plan = blocks, plan
        self.block = nn.ModuleList(_resnet_block(plan, block) for block in blocks)
        if blocks[0].attention:
            self.attn = nn.ModuleList(_attention(plan, block) for block in blocks)

    def forward(self, x: Tensor, noise: Tensors, recomputed: bool, codes: Tensor | None = None) -> Tensor:
        for j, block in enumerate(self.blocks):
            x = call(self.block[j], x, noise.get(block.name), codes, checkpoint=recomputed)
            if block.attends:
                x = call(self.attn[j], x, codes, checkpoint=recomputed)
        return x


class Resampling(nn.Module):
    """The convolution that goes with pooling or upsampling."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.conv = Halved(width, width) if stride > 1 else nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Down(Blocks):
    """A level of the encoder: blocks, then half the resolution."""

    def __init__(self, plan: TokenizerPlan, level: Level) -> None:
        super().__init__(plan, level.blocks)
        self.resamples = level.resamples
        self.downsample = Resampling(level.width, 2) if level.resamples and plan.strided else None

    def forward(self, x: Tensor, noise: Tensors, recomputed: bool, codes: Tensor | None = None) -> Tensor:
        x = super().forward(x, noise, recomputed, codes)
        if not self.resamples:
            return x
        return halve(x) if self.downsample is None else self.downsample(x)


class Up(Blocks):
    """A level of the decoder: blocks, then twice the resolution."""

    def __init__(self, plan: TokenizerPlan, level: Level) -> None:
        super().__init__(plan, level.blocks)
        self.resamples = level.resamples
        width, taming = level.width, plan.taming
        smooths = level.resamples and plan.options.resample_with_conv
        self.upsample = Resampling(width, 1) if smooths and taming else None
        plain = level.resamples and not taming
        self.upsample_conv = nn.Conv2d(width, width, 3, padding=1) if plain else None

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

    def __init__(self, plan: TokenizerPlan, blocks: tuple[Block, ...]) -> None:
        super().__init__()
        self.blocks = blocks
        self.block_1 = _resnet_block(plan, blocks[0])
        self.attn_1 = _attention(plan, blocks[0]) if blocks[0].attention else None
        self.block_2 = _resnet_block(plan, blocks[1])

    def forward(self, x: Tensor, noise: Tensors, recomputed: bool, codes: Tensor | None = None) -> Tensor:
        x = call(self.block_1, x, noise.get(self.blocks[0].name), codes, checkpoint=recomputed)
        x = x if self.attn_1 is None else call(self.attn_1, x, codes, checkpoint=recomputed)
        return call(self.block_2, x, noise.get(self.blocks[1].name), codes, checkpoint=recomputed)


class PlainMid(nn.ModuleList):
    """Blocks of the coarsest resolution."""

    def __init__(self, plan: TokenizerPlan, blocks: tuple[Block, ...]) -> None:
        super().__init__(_resnet_block(plan, block) for block in blocks)
        self.blocks = blocks

    def forward(self, x: Tensor, noise: Tensors, recomputed: bool, codes: Tensor | None = None) -> Tensor:
        for layer, block in zip(self, self.blocks, strict=True):
            x = call(layer, x, noise.get(block.name), codes, checkpoint=recomputed)
        return x


class Encoder(nn.Module):
    """(B, C, H, W) -> (B, z_channels, h, w)."""

    def __init__(self, plan: TokenizerPlan, recomputed: bool) -> None:
        super().__init__()
        options, top = plan.options, plan.encoder[-1].width
        self.conv_in = nn.Conv2d(plan.channels, options.hidden_channels, 3, padding=1, bias=plan.taming)
        self.down = nn.ModuleList(Down(plan, level) for level in plan.encoder)
        self.mid = (TamingMid if plan.taming else PlainMid)(plan, plan.encoder_mid)
        self.norm_out = group_norm(top, options.norm_groups)
        side = 3 if plan.taming else 1
        self.conv_out = nn.Conv2d(top, options.z_channels, side, padding=side // 2)
        self.recomputed = recomputed

    def forward(self, x: Tensor, noise: Tensors) -> Tensor:
        x = self.conv_in(x)
        for level in self.down:
            x = level(x, noise, self.recomputed)
        x = self.mid(x, noise, self.recomputed)
        return self.conv_out(F.silu(self.norm_out(x)))


class Decoder(nn.Module):
    """(B, z_channels, h, w) -> (B, F, H, W), the input of the last convolution. The codes (B, D, h, w) may
    modulate the norms."""

    def __init__(self, plan: TokenizerPlan, recomputed: bool) -> None:
        super().__init__()
        options, finest = plan.options, plan.decoder[0].width
        self.conv_in = nn.Conv2d(options.z_channels, plan.decoder[-1].width, 3, padding=1)
        self.mid = (TamingMid if plan.taming else PlainMid)(plan, plan.decoder_mid)
        self.up = nn.ModuleList(Up(plan, level) for level in plan.decoder)
        self.norm_out = _norm_out(plan, finest)
        self.modulated = plan.modulated
        self.conv_out = nn.Conv2d(finest, plan.channels, 3, padding=1)
        self.recomputed = recomputed

    def forward(self, x: Tensor, noise: Tensors, codes: Tensor) -> Tensor:
        modulation_codes = codes if self.modulated else None
        x = self.mid(self.conv_in(x), noise, self.recomputed, modulation_codes)
        for level in reversed(self.up):
            x = level(x, noise, self.recomputed, modulation_codes)
        return F.silu(self.norm_out(x) if modulation_codes is None else self.norm_out(x, modulation_codes))


class Tokenizer(Pretrained, nn.Module):
    """Encoder, quantiser and decoder."""

    def __init__(self, plan: TokenizerPlan, checkpoint: bool = False) -> None:
        super().__init__()
        options = plan.options
        self.plan = plan
        encoder, decoder = _architecture(plan)
        self.encoder = encoder(plan, checkpoint)
        self.quantize = make_quantizer(options)
        self.decoder = decoder(plan, checkpoint)
        D, Z = options.embedding_dim, options.z_channels
        self.quant_conv = nn.Conv2d(Z, D, 1) if plan.taming else None
        self.post_quant_conv = nn.Conv2d(D, Z, 1) if plan.taming else None

    def forward(self, x: Tensor, noise: Tensors | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Reconstructions (B, H, W, C), not clamped, and intermediates."""
        z = self.encode(x, noise)
        quantised = self.quantise(z, noise, train=True)
        made = self.output(self.decode_trunk(quantised.codes, noise))
        return made, {"z": z, "codes": quantised.codes, "indices": quantised.indices, **quantised.losses}

    def encode(self, x: Tensor, noise: Tensors | None = None) -> Tensor:
        """Pictures -> vectors to quantise."""
        x = x.to(weights_dtype(self.encoder))
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
        """Codes of the vectors. In training, a Gumbel quantiser uses the noise `gumbel` and the scalar
        `gumbel_temperature` (default: its first temperature)."""
        if isinstance(self.quantize, GumbelCodes):
            temperature = (scalars or {}).get(
                "gumbel_temperature", self.quantize.options.gumbel_temperature[0]
            )
            return self.quantize(z, noise, temperature, train=train)
        if isinstance(self.quantize, GaussianPosterior):
            return self.quantize(z, noise, train=train)
        return self.quantize(z, buffers, train=train)

    def decode_trunk(self, codes: Tensor, noise: Tensors | None = None) -> Tensor:
        """Codes -> (B, H, W, F), for `output`."""
        codes = rearrange(codes.to(self.decoder.conv_out.weight.dtype), "b h w c -> b c h w")
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
        return self.decode(self.quantize.lookup(indices))


def _architecture(plan: TokenizerPlan) -> tuple[Any, Any]:
    """Classes of the architecture's encoder and decoder."""
    if plan.residual is not None:
        return ResidualEncoder, ResidualDecoder
    if plan.spectral is not None:
        return SpectralEncoder, SpectralDecoder
    return (PaellaEncoder, PaellaDecoder) if plan.paella else (Encoder, Decoder)


def _resnet_block(plan: TokenizerPlan, block: Block) -> ResnetBlock:
    options = plan.options
    return ResnetBlock(
        block.inputs,
        block.outputs,
        groups=options.norm_groups,
        bias=plan.taming,
        rate=options.dropout,
        legacy_shortcut=options.legacy_shortcut and not plan.taming,
        modulation=_modulation(plan, block),
    )


def _attention(plan: TokenizerPlan, block: Block) -> GridAttention:
    groups, modulation = plan.options.norm_groups, _modulation(plan, block)
    return GridAttention(block.outputs, groups=groups, modulation=modulation)


def _modulation(plan: TokenizerPlan, block: Block) -> int:
    """Channels of the codes that modulate a block's norms; 0: no modulation."""
    return plan.embedding_dim if plan.modulated and block.name.startswith("decoder.") else 0


def _norm_out(plan: TokenizerPlan, width: int) -> nn.GroupNorm | SpatialNorm:
    groups = plan.options.norm_groups
    if plan.modulated:
        return SpatialNorm(width, groups, plan.embedding_dim)
    return group_norm(width, groups)
