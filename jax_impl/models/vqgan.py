"""Image tokenizers: MaskGIT's (Chang et al. 2022), VQGAN (Esser et al. 2021), MoVQ (Zheng et al. 2022) and
VQGAN+ (Weber et al. 2024).

Pictures are (B, H, W, C) in the plan's range, vectors and codes (B, h, w, D), indices (B, h, w). Inside,
arrays are NHWC. Modules have the names of the published weights.
"""

from collections.abc import Mapping
from typing import Any

import jax
from einops import rearrange
from flax import nnx
from jax import Array

from dioscuri.families.vqgan.plan import Block, Level, TokenizerPlan
from jax_impl.layers.convolution import Conv
from jax_impl.layers.dense import Linear
from jax_impl.layers.precision import weights_dtype
from jax_impl.layers.quantizers import (
    GaussianPosterior,
    GumbelCodes,
    Quantised,
    averaged_codebook,
    make_quantizer,
)
from jax_impl.layers.resnet import (
    GridAttention,
    GroupNorm,
    Halved,
    ResnetBlock,
    SpatialNorm,
    double,
    group_norm,
    halve,
)
from jax_impl.layers.stack import call
from jax_impl.models.dcvae import SpectralDecoder, SpectralEncoder
from jax_impl.models.paella import PaellaDecoder, PaellaEncoder
from jax_impl.models.residual_tokenizer import ResidualDecoder, ResidualEncoder
from jax_impl.pretrained import Pretrained

__all__ = ["Quantised", "Tokenizer", "averaged_codebook"]

Arrays = Mapping[str, Array]


class Blocks(nnx.Module):
    """Residual blocks of one resolution, each followed by attention if the plan says so."""

    def __init__(self, plan: TokenizerPlan, blocks: tuple[Block, ...]) -> None:
        self.blocks, self.plan = blocks, plan
        self.block = nnx.List([_resnet_block(plan, block) for block in blocks])
        if blocks[0].attention:
            self.attn = nnx.List([_attention(plan, block) for block in blocks])

    def __call__(self, x: Array, noise: Arrays, recomputed: bool, codes: Array | None = None) -> Array:
        for j, block in enumerate(self.blocks):
            x = call(self.block[j], x, noise.get(block.name), codes, checkpoint=recomputed)
            if block.attends:
                x = call(self.attn[j], x, codes, checkpoint=recomputed)
        return x


class Resampling(nnx.Module):
    """The convolution that goes with pooling or upsampling."""

    def __init__(self, width: int, stride: int) -> None:
        self.conv = Halved(width, width) if stride > 1 else Conv(width, width, (3, 3))

    def __call__(self, x: Array) -> Array:
        return self.conv(x)


class Down(Blocks):
    """A level of the encoder: blocks, then half the resolution."""

    def __init__(self, plan: TokenizerPlan, level: Level) -> None:
        super().__init__(plan, level.blocks)
        self.resamples = level.resamples
        self.downsample = Resampling(level.width, 2) if level.resamples and plan.strided else None

    def __call__(self, x: Array, noise: Arrays, recomputed: bool, codes: Array | None = None) -> Array:
        x = super().__call__(x, noise, recomputed, codes)
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
        self.upsample_conv = Conv(width, width, (3, 3)) if plain else None

    def __call__(self, x: Array, noise: Arrays, recomputed: bool, codes: Array | None = None) -> Array:
        x = super().__call__(x, noise, recomputed, codes)
        if not self.resamples:
            return x
        x = double(x)
        if self.upsample_conv is not None:
            return self.upsample_conv(x)
        return x if self.upsample is None else self.upsample(x)


class TamingMid(nnx.Module):
    """Two blocks of the coarsest resolution with attention between them."""

    def __init__(self, plan: TokenizerPlan, blocks: tuple[Block, ...]) -> None:
        self.blocks = blocks
        self.block_1 = _resnet_block(plan, blocks[0])
        self.attn_1 = _attention(plan, blocks[0]) if blocks[0].attention else None
        self.block_2 = _resnet_block(plan, blocks[1])

    def __call__(self, x: Array, noise: Arrays, recomputed: bool, codes: Array | None = None) -> Array:
        x = call(self.block_1, x, noise.get(self.blocks[0].name), codes, checkpoint=recomputed)
        x = x if self.attn_1 is None else call(self.attn_1, x, codes, checkpoint=recomputed)
        return call(self.block_2, x, noise.get(self.blocks[1].name), codes, checkpoint=recomputed)


class PlainMid(nnx.List):
    """Blocks of the coarsest resolution."""

    def __init__(self, plan: TokenizerPlan, blocks: tuple[Block, ...]) -> None:
        super().__init__([_resnet_block(plan, block) for block in blocks])
        self.names = tuple(block.name for block in blocks)

    def __call__(self, x: Array, noise: Arrays, recomputed: bool, codes: Array | None = None) -> Array:
        for layer, name in zip(self, self.names, strict=True):
            x = call(layer, x, noise.get(name), codes, checkpoint=recomputed)
        return x


class Encoder(nnx.Module):
    """(B, H, W, C) -> (B, h, w, z_channels)."""

    def __init__(self, plan: TokenizerPlan, recomputed: bool) -> None:
        options, top = plan.options, plan.encoder[-1].width
        self.conv_in = Conv(plan.channels, options.hidden_channels, (3, 3), use_bias=plan.taming)
        self.down = nnx.List([Down(plan, level) for level in plan.encoder])
        self.mid = (TamingMid if plan.taming else PlainMid)(plan, plan.encoder_mid)
        self.norm_out = group_norm(top, options.norm_groups)
        self.conv_out = (
            Conv(top, options.z_channels, (3, 3)) if plan.taming else Linear(top, options.z_channels)
        )
        self.recomputed = recomputed

    def __call__(self, x: Array, noise: Arrays) -> Array:
        x = self.conv_in(x)
        for level in self.down:
            x = level(x, noise, self.recomputed)
        x = self.mid(x, noise, self.recomputed)
        return self.conv_out(jax.nn.silu(self.norm_out(x)))


class Decoder(nnx.Module):
    """(B, h, w, z_channels) -> (B, H, W, F), the input of the last convolution. The codes (B, h, w, D) may
    modulate the norms."""

    def __init__(self, plan: TokenizerPlan, recomputed: bool) -> None:
        options, finest = plan.options, plan.decoder[0].width
        self.conv_in = Conv(options.z_channels, plan.decoder[-1].width, (3, 3))
        self.mid = (TamingMid if plan.taming else PlainMid)(plan, plan.decoder_mid)
        self.up = nnx.List([Up(plan, level) for level in plan.decoder])
        self.norm_out = _norm_out(plan, finest)
        self.modulated = plan.modulated
        self.conv_out = Conv(finest, plan.channels, (3, 3))
        self.recomputed = recomputed

    def __call__(self, x: Array, noise: Arrays, codes: Array) -> Array:
        modulation_codes = codes if self.modulated else None
        x = self.mid(self.conv_in(x), noise, self.recomputed, modulation_codes)
        for level in reversed(self.up):
            x = level(x, noise, self.recomputed, modulation_codes)
        norm: Any = self.norm_out
        return jax.nn.silu(norm(x) if modulation_codes is None else norm(x, modulation_codes))


class Tokenizer(Pretrained, nnx.Module):
    """Encoder, quantiser and decoder."""

    def __init__(self, plan: TokenizerPlan, checkpoint: bool = False) -> None:
        options = plan.options
        self.plan = plan
        encoder, decoder = _architecture(plan)
        self.encoder = encoder(plan, checkpoint)
        self.quantize = make_quantizer(options)
        self.decoder = decoder(plan, checkpoint)
        D, Z = options.embedding_dim, options.z_channels
        self.quant_conv = Linear(Z, D) if plan.taming else None
        self.post_quant_conv = Linear(D, Z) if plan.taming else None

    def __call__(self, x: Array, noise: Arrays | None = None) -> tuple[Array, dict[str, Array]]:
        """Reconstructions (B, H, W, C), not clamped, and intermediates."""
        z = self.encode(x, noise)
        quantised = self.quantise(z, noise, train=True)
        made = self.output(self.decode_trunk(quantised.codes, noise))
        return made, {"z": z, "codes": quantised.codes, "indices": quantised.indices, **quantised.losses}

    def encode(self, x: Array, noise: Arrays | None = None) -> Array:
        """Pictures -> vectors to quantise."""
        z = self.encoder(x.astype(weights_dtype(self.encoder)), noise or {})
        return z if self.quant_conv is None else self.quant_conv(z)

    def quantise(
        self,
        z: Array,
        noise: Arrays | None = None,
        scalars: Arrays | None = None,
        buffers: Arrays | None = None,
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

    def decode_trunk(self, codes: Array, noise: Arrays | None = None) -> Array:
        """Codes -> (B, H, W, F), for `output`."""
        codes = codes.astype(self.decoder.conv_out.kernel.dtype)
        x = codes if self.post_quant_conv is None else self.post_quant_conv(codes)
        return self.decoder(x, noise or {}, codes)

    def output(self, trunk: Array) -> Array:
        """(B, H, W, F) -> pictures, not clamped."""
        x = self.decoder.conv_out(trunk)
        return rearrange(x, "b h w (c s t) -> b (h s) (w t) c", s=2, t=2) if self.plan.paella else x

    def decode(self, codes: Array) -> Array:
        """Codes -> pictures, not clamped."""
        return self.output(self.decode_trunk(codes))

    def decode_indices(self, indices: Array) -> Array:
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


def _norm_out(plan: TokenizerPlan, width: int) -> GroupNorm | SpatialNorm:
    groups = plan.options.norm_groups
    if plan.modulated:
        return SpatialNorm(width, groups, plan.embedding_dim)
    return group_norm(width, groups)
