"""Layers and noise of an image tokenizer. Its parameters are in tables.py."""

from dataclasses import dataclass
from functools import lru_cache

from dioscuri.errors import UserError
from dioscuri.families.vqgan.model_options import Tokenizer
from dioscuri.families.vqgan.one_d_tokens import OneDStacks, one_d_stacks
from dioscuri.families.vqgan.options import HParams
from dioscuri.families.vqgan.residual_tokenizers import ResidualStacks, residual_stacks
from dioscuri.families.vqgan.spectral import SpectralStacks, spectral_stacks
from dioscuri.plans.noise import NoiseSpec


@dataclass(frozen=True)
class Block:
    """A residual block; `attention`: an attention layer exists after it; `attends`: that layer is used."""

    name: str
    inputs: int
    outputs: int
    resolution: int
    attention: bool = False
    attends: bool = False


@dataclass(frozen=True)
class Level:
    """The blocks of one resolution; `resamples`: after them the encoder halves
    it, or the decoder doubles it."""

    width: int
    blocks: tuple[Block, ...]
    resamples: bool


@dataclass(frozen=True)
class TokenizerPlan:
    """Layers of encoder and decoder; in both, levels are counted from the finest.

    `residual`, `spectral` or `one_d` replaces the levels; `proxy` is the other tokenizer whose decoder is the
    last part of a decoder of `one_d`.
    """

    options: Tokenizer
    resolution: int
    channels: int
    encoder: tuple[Level, ...]
    encoder_mid: tuple[Block, ...]
    decoder_mid: tuple[Block, ...]
    decoder: tuple[Level, ...]
    residual: ResidualStacks | None = None
    spectral: SpectralStacks | None = None
    one_d: OneDStacks | None = None
    proxy: "TokenizerPlan | None" = None

    @property
    def downsampling(self) -> int:
        """Ratio of a picture's side to that of its grid of tokens."""
        if self.residual is not None:
            return self.resolution // self.residual.grid
        if self.spectral is not None:
            return int(2 ** (len(self.options.channel_mult) - 1))
        return int(2 ** (len(self.encoder) - 1 + self.paella))

    @property
    def grid(self) -> int:
        """Side of the grid of tokens; 0 for a sequence without a grid."""
        return 0 if self.one_d is not None else self.resolution // self.downsampling

    @property
    def token_shape(self) -> tuple[int, ...]:
        """Shape of a picture's tokens: (h, w), or (T,) for a sequence without a grid."""
        return (self.grid, self.grid) if self.one_d is None else (self.one_d.tokens,)

    @property
    def vector_shape(self) -> tuple[int, int]:
        """Shape of a picture's vectors without their last axis: (h, w), or (1, T) for a sequence."""
        return (self.grid, self.grid) if self.one_d is None else (1, self.one_d.tokens)

    @property
    def sequence_length(self) -> int:
        """Number of tokens of a sequence without a grid, else 0."""
        return 0 if self.grid else self.token_shape[0]

    @property
    def codebook_size(self) -> int:
        """Number of codes."""
        return self.options.num_embeddings

    @property
    def embedding_dim(self) -> int:
        """Length of a code."""
        return self.options.embedding_dim

    @property
    def encoder_outputs(self) -> int:
        """Values of each of the encoder's vectors: a code's, or means and logarithms of variances."""
        return self.embedding_dim * (2 if self.options.quantizer == "gaussian" else 1)

    @property
    def pixel_range(self) -> str:
        """'unit' for [0, 1], 'signed' for [-1, 1]."""
        return self.options.pixel_range

    @property
    def taming(self) -> bool:
        """Whether it is the VQGAN of taming-transformers or derived from it."""
        return self.options.architecture in ("taming", "movq")

    @property
    def strided(self) -> bool:
        """Whether the encoder's levels end with a strided convolution, not with a mean of 2x2 positions."""
        return self.options.resample_with_conv and self.options.architecture in (
            "vqgan_plus",
            "taming",
            "movq",
        )

    @property
    def paella(self) -> bool:
        """Whether it is Paella's, which reads patches of 2x2 pixels."""
        return self.options.architecture == "paella"

    @property
    def modulated(self) -> bool:
        """Whether the codes modulate the decoder's norms."""
        return self.options.architecture == "movq"

    @property
    def blocks(self) -> list[Block]:
        """All residual blocks in order of execution."""
        down = [block for level in self.encoder for block in level.blocks]
        up = [block for level in reversed(self.decoder) for block in level.blocks]
        return [*down, *self.encoder_mid, *self.decoder_mid, *up]


def plan_of(hparams: HParams) -> TokenizerPlan:
    """The plan of a run's options; a `UserError` names the one that does not fit."""
    return make_plan(hparams.model, hparams.data.target_res, hparams.data.channels)


@lru_cache  # host logic and both sides of the engine need the same plan
def make_plan(options: Tokenizer, resolution: int, channels: int) -> TokenizerPlan:
    """Plan a tokenizer of pictures (resolution, resolution, channels); a `UserError` if that fails."""
    if options.architecture == "paella":
        return _paella_plan(options, resolution, channels)
    if options.architecture == "metroplex":
        stacks = residual_stacks(options, resolution)
        return TokenizerPlan(options, resolution, channels, (), (), (), (), stacks)
    if options.architecture == "titok":
        return _one_d_plan(options, resolution, channels)
    n = len(options.channel_mult)
    if resolution % 2 ** (n - 1):
        raise UserError(
            f"[data] target_res {resolution} must be a multiple of {2 ** (n - 1)}: [model] channel_mult has "
            f"{n} levels"
        )
    widths = [options.hidden_channels * factor for factor in options.channel_mult]
    if options.architecture == "dcvae":
        return _spectral_plan(options, resolution, channels, widths)
    for width in {options.hidden_channels, *widths}:
        if width % options.norm_groups:
            raise UserError(
                "[model] widths hidden_channels x channel_mult must be multiples of norm_groups = "
                f"{options.norm_groups}, but {width} is not"
            )
    top, coarsest = widths[-1], resolution // 2 ** (n - 1)
    down, up = [], []
    for i, width in enumerate(widths):
        side = resolution // 2**i
        first = widths[i - 1] if i else options.hidden_channels
        blocks = _level(options, f"encoder.down.{i}", first, width, side, options.num_res_blocks)
        down.append(Level(width, blocks, i < n - 1))
        first = widths[i + 1] if i < n - 1 else top
        blocks = _level(options, f"decoder.up.{i}", first, width, side, _decoder_blocks(options))
        up.append(Level(width, blocks, i > 0))
    mid = {side: _mid(options, f"{side}.mid", top, coarsest) for side in ("encoder", "decoder")}
    return TokenizerPlan(
        options, resolution, channels, tuple(down), mid["encoder"], mid["decoder"], tuple(up)
    )


def _paella_plan(options: Tokenizer, resolution: int, channels: int) -> TokenizerPlan:
    """Plan Paella's tokenizer, whose blocks follow from the levels' widths alone."""
    n = len(options.channel_mult)
    if resolution % 2**n:
        raise UserError(
            f"[data] target_res {resolution} must be a multiple of {2**n}: [model] channel_mult has "
            f"{n} levels"
        )
    widths = [options.hidden_channels * factor for factor in options.channel_mult]
    levels = tuple(Level(width, (), i < n - 1) for i, width in enumerate(widths))
    return TokenizerPlan(options, resolution, channels, levels, (), (), levels)


def _spectral_plan(options: Tokenizer, resolution: int, channels: int, widths: list[int]) -> TokenizerPlan:
    if widths[-1] != options.z_channels:
        raise UserError(
            f"[model] z_channels {options.z_channels} must be {widths[-1]}, hidden_channels times the last "
            "entry of channel_mult"
        )
    biased = not options.legacy_unused_biases
    stacks = spectral_stacks(widths, options.num_res_blocks, biased=biased)
    return TokenizerPlan(options, resolution, channels, (), (), (), (), spectral=stacks)


def _decoder_blocks(options: Tokenizer) -> int:
    """Residual blocks per level of the decoder."""
    if options.architecture in ("taming", "movq"):
        return options.num_res_blocks + 1
    return options.num_res_blocks_decoder or options.num_res_blocks


def _one_d_plan(options: Tokenizer, resolution: int, channels: int) -> TokenizerPlan:
    stacks, proxy = one_d_stacks(options, resolution, channels), None
    if options.decoder_output == "proxy_pixels":
        decoder = Tokenizer(
            architecture="maskgit",
            hidden_channels=options.hidden_channels,
            channel_mult=options.channel_mult,
            num_res_blocks=options.num_res_blocks,
            z_channels=options.z_channels,
            embedding_dim=options.z_channels,
            num_embeddings=options.num_proxy_embeddings,
            norm_groups=options.norm_groups,
            legacy_shortcut=options.legacy_shortcut,
            pixel_range=options.pixel_range,
        )
        proxy = make_plan(decoder, resolution, channels)
        if proxy.grid != stacks.decoder.grid:
            raise UserError(
                f"[model] channel_mult gives the other tokenizer a grid of {proxy.grid}, decoder_patch gives "
                f"{stacks.decoder.grid}: they must be equal"
            )
    return TokenizerPlan(options, resolution, channels, (), (), (), (), one_d=stacks, proxy=proxy)


def _level(options: Tokenizer, name: str, inputs: int, width: int, side: int, n: int) -> tuple[Block, ...]:
    attention = options.architecture in ("taming", "movq") and side in options.attn_resolutions
    attends = attention and (n > 1 or not options.legacy_single_block_attention)
    return tuple(
        Block(f"{name}.block.{j}", width if j else inputs, width, side, attention, attends) for j in range(n)
    )


def _mid(options: Tokenizer, name: str, width: int, side: int) -> tuple[Block, ...]:
    if options.architecture in ("taming", "movq"):
        attention = options.mid_attention
        first = Block(f"{name}.block_1", width, width, side, attention, attention)
        return first, Block(f"{name}.block_2", width, width, side)
    n = _decoder_blocks(options) if name.startswith("decoder.") else options.num_res_blocks
    return tuple(Block(f"{name}.{j}", width, width, side) for j in range(n))


def last_layer_name(plan: TokenizerPlan) -> str:
    """Name of the kernel whose gradients determine the adaptive weight of the adversarial loss."""
    return "decoder.conv_out.weight" if plan.proxy is None else "pixel_decoder.conv_out.weight"


def codebook_name(plan: TokenizerPlan) -> str:
    """Name of the codes (K, D)."""
    projected = plan.options.quantizer == "gumbel" and plan.taming
    return "quantize.embed.weight" if projected else "quantize.embedding.weight"


def has_codebook(plan: TokenizerPlan) -> bool:
    """Whether the codes are a parameter."""
    return plan.options.quantizer in ("nearest", "ema", "gumbel")


def noise(plan: TokenizerPlan, batch: int) -> tuple[NoiseSpec, ...]:
    """Noise of training: uniform for dropout (B, H, W, C), under the residual block's name, and as `gumbel`
    (B, h, w, K) for a Gumbel quantiser; normal as `posterior` (B, h, w, D) for a Gaussian one."""
    dropped = plan.blocks if plan.options.dropout else []
    specs = tuple(
        NoiseSpec(block.name, "uniform", (batch, block.resolution, block.resolution, block.outputs))
        for block in dropped
    )
    if plan.options.quantizer == "gaussian":
        return (*specs, NoiseSpec("posterior", "normal", (batch, *plan.vector_shape, plan.embedding_dim)))
    if plan.options.quantizer != "gumbel":
        return specs
    return (*specs, NoiseSpec("gumbel", "uniform", (batch, *plan.vector_shape, plan.codebook_size)))
