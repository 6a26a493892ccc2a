"""The layers of an image tokenizer, its parameters under the originals' names, its buffers and its noise."""

from dataclasses import dataclass

from common.errors import UserError
from common.hparams.tokenizer import Tokenizer
from common.plans.noise import Draw
from common.plans.parameters import ONES, ZEROS, Init, Parameter, Table
from common.plans.residual_tokenizers import ResidualStacks, residual_stacks, residual_table
from common.plans.spectral import (
    SpectralStacks,
    generator_layers,
    generator_table,
    power_buffers,
    spectral_stacks,
)

LEARNT = Init("fan_in_uniform")


@dataclass(frozen=True)
class Block:
    """A residual block; `attention` says whether there is one behind it, `attends` whether it is used."""

    name: str
    inputs: int
    outputs: int
    resolution: int
    attention: bool = False
    attends: bool = False


@dataclass(frozen=True)
class Level:
    """The blocks of one resolution; `resamples`: the encoder halves, the decoder doubles it behind them."""

    width: int
    blocks: tuple[Block, ...]
    resamples: bool


@dataclass(frozen=True)
class TokenizerPlan:
    """Layers of encoder and decoder; levels are counted from the finest in both.

    `residual` or `spectral` stands in the place of the levels.
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

    @property
    def downsampling(self) -> int:
        """Side of a picture over that of its grid of tokens."""
        if self.residual is not None:
            return self.resolution // self.residual.grid
        if self.spectral is not None:
            return int(2 ** (len(self.options.channel_mult) - 1))
        return int(2 ** (len(self.encoder) - 1 + self.paella))

    @property
    def grid(self) -> int:
        """Side of the grid of tokens."""
        return self.resolution // self.downsampling

    @property
    def codebook_size(self) -> int:
        """Number of codes."""
        return self.options.num_embeddings

    @property
    def embedding_dim(self) -> int:
        """Length of a code."""
        return self.options.embedding_dim

    @property
    def pixel_range(self) -> str:
        """'unit' for [0, 1], 'signed' for [-1, 1]."""
        return self.options.pixel_range

    @property
    def taming(self) -> bool:
        """Whether it is the VQGAN of taming-transformers or made after it."""
        return self.options.architecture in ("taming", "movq")

    @property
    def paella(self) -> bool:
        """Whether it is Paella's, which sees 2x2 pixels as one."""
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


def make_plan(options: Tokenizer, resolution: int, channels: int) -> TokenizerPlan:
    """Plan a tokenizer of pictures (resolution, resolution, channels); a `UserError` where that fails."""
    if options.architecture == "paella":
        return _paella_plan(options, resolution, channels)
    if options.architecture == "metroplex":
        stacks = residual_stacks(options, resolution)
        return TokenizerPlan(options, resolution, channels, (), (), (), (), stacks)
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
                f"[model] widths hidden_channels x channel_mult must be multiples of norm_groups = "
                f"{options.norm_groups}, {width} is not"
            )
    top, coarsest = widths[-1], resolution // 2 ** (n - 1)
    down, up = [], []
    for i, width in enumerate(widths):
        side = resolution // 2**i
        first = widths[i - 1] if i else options.hidden_channels
        blocks = _level(options, f"encoder.down.{i}", first, width, side, options.num_res_blocks)
        down.append(Level(width, blocks, i < n - 1))
        more = 0 if options.architecture == "maskgit" else 1
        first = widths[i + 1] if i < n - 1 else top
        blocks = _level(options, f"decoder.up.{i}", first, width, side, options.num_res_blocks + more)
        up.append(Level(width, blocks, i > 0))
    mid = {part: _mid(options, f"{part}.mid", top, coarsest) for part in ("encoder", "decoder")}
    return TokenizerPlan(
        options, resolution, channels, tuple(down), mid["encoder"], mid["decoder"], tuple(up)
    )


def _paella_plan(options: Tokenizer, resolution: int, channels: int) -> TokenizerPlan:
    """Its blocks follow from the levels' widths alone."""
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


def _level(options: Tokenizer, name: str, inputs: int, width: int, side: int, n: int) -> tuple[Block, ...]:
    attention = options.architecture != "maskgit" and side in options.attn_resolutions
    attends = attention and (n > 1 or not options.legacy_single_block_attention)
    return tuple(
        Block(f"{name}.block.{j}", width if j else inputs, width, side, attention, attends) for j in range(n)
    )


def _mid(options: Tokenizer, name: str, width: int, side: int) -> tuple[Block, ...]:
    if options.architecture != "maskgit":
        attention = options.mid_attention
        first = Block(f"{name}.block_1", width, width, side, attention, attention)
        return first, Block(f"{name}.block_2", width, width, side)
    return tuple(Block(f"{name}.{j}", width, width, side) for j in range(options.num_res_blocks))


def last_layer_name(plan: TokenizerPlan) -> str:
    """The kernel that the adaptive weight of the adversarial loss looks at."""
    del plan
    return "decoder.conv_out.weight"


def codebook_name(plan: TokenizerPlan) -> str:
    """The codes (K, D)."""
    projected = plan.options.quantizer == "gumbel" and plan.taming
    return "quantize.embed.weight" if projected else "quantize.embedding.weight"


def has_codebook(plan: TokenizerPlan) -> bool:
    """Whether the codes are a parameter."""
    return plan.options.quantizer in ("nearest", "ema", "gumbel")


def parameter_table(plan: TokenizerPlan) -> Table:
    """Every parameter under its canonical name: those of open-muse and of taming-transformers."""
    if plan.paella:
        return _paella_table(plan)
    if plan.residual is not None:
        return residual_table(plan.residual, plan.channels, _codebook(plan))
    if plan.spectral is not None:
        return generator_table(plan.spectral, plan.channels, _codebook(plan))
    return _levels_table(plan)


def _levels_table(plan: TokenizerPlan) -> Table:
    options, taming = plan.options, plan.taming
    table = _conv("encoder.conv_in", plan.channels, options.hidden_channels, 3, bias=taming)
    for i, level in enumerate(plan.encoder):
        table |= _blocks(plan, level.blocks, f"encoder.down.{i}.attn")
        if taming and level.resamples and options.resample_with_conv:
            table |= _conv(f"encoder.down.{i}.downsample.conv", level.width, level.width, 3)
    top = plan.encoder[-1].width
    table |= _blocks(plan, plan.encoder_mid, "encoder.mid.attn")
    table |= _norm(plan, "encoder.norm_out", top)
    table |= _conv("encoder.conv_out", top, options.z_channels, 3 if taming else 1)
    if taming:
        table |= _conv("quant_conv", options.z_channels, options.embedding_dim, 1)
    table |= _codebook(plan)
    if options.quantizer == "gumbel" and taming:
        table |= _conv("quantize.proj", options.embedding_dim, plan.codebook_size, 1)
    if taming:
        table |= _conv("post_quant_conv", options.embedding_dim, options.z_channels, 1)
    table |= _conv("decoder.conv_in", options.z_channels, top, 3)
    table |= _blocks(plan, plan.decoder_mid, "decoder.mid.attn")
    for i, level in reversed(list(enumerate(plan.decoder))):
        table |= _blocks(plan, level.blocks, f"decoder.up.{i}.attn")
        if level.resamples and (options.resample_with_conv or not taming):
            name = "upsample.conv" if taming else "upsample_conv"
            table |= _conv(f"decoder.up.{i}.{name}", level.width, level.width, 3)
    finest = plan.decoder[0].width
    return (
        table | _norm(plan, "decoder.norm_out", finest) | _conv("decoder.conv_out", finest, plan.channels, 3)
    )


def _paella_table(plan: TokenizerPlan) -> Table:
    widths, D = [level.width for level in plan.encoder], plan.options.z_channels
    table = _conv("encoder.conv_in", 4 * plan.channels, widths[0], 1)
    for i, width in enumerate(widths):
        if i:
            table |= _conv(f"encoder.down.{i}.resample", widths[i - 1], width, 4)
        table |= _modulated_block(f"encoder.down.{i}.blocks.0", width)
    table |= _conv("encoder.conv_out", widths[-1], D, 1)
    table |= _codebook(plan)
    table |= _conv("decoder.conv_in", D, widths[-1], 1)
    for i, width in reversed(list(enumerate(widths))):
        for j in range(plan.options.num_res_blocks if i == len(widths) - 1 else 1):
            table |= _modulated_block(f"decoder.up.{i}.blocks.{j}", width)
        if i:
            transposed = _conv(f"decoder.up.{i}.resample", width, widths[i - 1], 4)
            weight = transposed[f"decoder.up.{i}.resample.weight"]
            shape = (width, widths[i - 1], 4, 4)
            table |= transposed | {f"decoder.up.{i}.resample.weight": Parameter(shape, weight.init)}
    return table | _conv("decoder.conv_out", widths[0], 4 * plan.channels, 1)


def _modulated_block(name: str, width: int) -> Table:
    table = {f"{name}.gammas": Parameter((6,), ZEROS, decays=False)}
    for part, inputs, outputs in (("0", width, 4 * width), ("2", 4 * width, width)):
        dense = _conv(f"{name}.channelwise.{part}", inputs, outputs, 1)
        weight = f"{name}.channelwise.{part}.weight"
        table |= dense | {weight: Parameter((outputs, inputs), LEARNT)}
    init = Init("fan_in_uniform", fan_in=9)
    table[f"{name}.depthwise.weight"] = Parameter((width, 1, 3, 3), LEARNT)
    table[f"{name}.depthwise.bias"] = Parameter((width,), init, decays=False)
    return table


def buffer_table(plan: TokenizerPlan) -> Table:
    """What the quantiser keeps beside its parameters: averages of each code's number and sum of vectors and,
    where these begin at 0, how many batches are in them; and those of `power_buffers` of the network."""
    table = power_buffers("", generator_layers(plan.spectral), values=True) if plan.spectral else {}
    if plan.options.quantizer != "ema":
        return table
    if plan.options.ema_debiased:
        return table | {
            "cluster_size": Parameter((plan.codebook_size,), ZEROS),
            "embedding_sum": Parameter(_codes(plan), ZEROS),
            "averaged": Parameter((1,), ZEROS),
        }
    return table | {
        "cluster_size": Parameter((plan.codebook_size,), ONES),
        "embedding_sum": Parameter(_codes(plan), Init("uniform", 1 / plan.codebook_size)),
    }


def noise(plan: TokenizerPlan, batch: int) -> tuple[Draw, ...]:
    """Uniform numbers for training: dropout's (B, H, W, C) under a residual block's name, and of a Gumbel
    quantiser `gumbel` (B, h, w, K)."""
    dropped = plan.blocks if plan.options.dropout else []
    draws = tuple(
        Draw(block.name, "uniform", (batch, block.resolution, block.resolution, block.outputs))
        for block in dropped
    )
    if plan.options.quantizer != "gumbel":
        return draws
    return (*draws, Draw("gumbel", "uniform", (batch, plan.grid, plan.grid, plan.codebook_size)))


def _codebook(plan: TokenizerPlan) -> Table:
    if not has_codebook(plan):
        return {}
    return {codebook_name(plan): Parameter(_codes(plan), Init("uniform", 1 / plan.codebook_size))}


def _codes(plan: TokenizerPlan) -> tuple[int, int]:
    return plan.codebook_size, plan.embedding_dim


def _blocks(plan: TokenizerPlan, blocks: tuple[Block, ...], attention: str) -> Table:
    table: Table = {}
    for j, block in enumerate(blocks):
        table |= _block(plan, block)
        if block.attention:
            name = f"{attention}_1" if attention.endswith("mid.attn") else f"{attention}.{j}"
            table |= _norm(plan, f"{name}.norm", block.outputs)
            for layer in ("q", "k", "v", "proj_out"):
                table |= _conv(f"{name}.{layer}", block.outputs, block.outputs, 1)
    return table


def _block(plan: TokenizerPlan, block: Block) -> Table:
    bias, name = plan.taming, block.name
    table = _norm(plan, f"{name}.norm1", block.inputs)
    table |= _conv(f"{name}.conv1", block.inputs, block.outputs, 3, bias=bias)
    table |= _norm(plan, f"{name}.norm2", block.outputs)
    table |= _conv(f"{name}.conv2", block.outputs, block.outputs, 3, bias=bias)
    if block.inputs != block.outputs:
        legacy = plan.options.legacy_shortcut and not plan.taming
        inputs = block.outputs if legacy else block.inputs
        table |= _conv(f"{name}.nin_shortcut", inputs, block.outputs, 1, bias=bias)
    return table


def _norm(plan: TokenizerPlan, name: str, width: int) -> Table:
    if not (plan.modulated and name.startswith("decoder.")):
        return _affine(name, width)
    table = _affine(f"{name}.norm_layer", width)
    for part in ("conv_y", "conv_b"):
        table |= _conv(f"{name}.{part}", plan.embedding_dim, width, 1)
    return table


def _affine(name: str, width: int) -> Table:
    return {
        f"{name}.weight": Parameter((width,), ONES, decays=False),
        f"{name}.bias": Parameter((width,), ZEROS, decays=False),
    }


def _conv(name: str, inputs: int, outputs: int, kernel: int, *, bias: bool = True) -> Table:
    table = {f"{name}.weight": Parameter((outputs, inputs, kernel, kernel), LEARNT)}
    if bias:
        init = Init("fan_in_uniform", fan_in=inputs * kernel**2)
        table[f"{name}.bias"] = Parameter((outputs,), init, decays=False)
    return table
