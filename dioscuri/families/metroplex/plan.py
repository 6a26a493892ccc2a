"""Layer plan of Metroplex: VD-VAE (Child 2021) on patches, convolutional or with variational attention.

Layers have as many axes as the data: one for sounds, two for pictures, three for clips.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import prod

from dioscuri.data.descriptors import describe
from dioscuri.errors import UserError
from dioscuri.families.hierarchical_vae.plan import Activation
from dioscuri.families.latent_models.grids import Grid, extent, factors, grids, patch_shape
from dioscuri.families.latent_models.plan import LatentPlan, mixture_channels
from dioscuri.families.metroplex.block_strings import decoder_blocks, encoder_blocks, table
from dioscuri.families.metroplex.blocks import (
    AttentionDownBlock,
    AttentionUpBlock,
    DownBlock,
    UpBlock,
    convolutional_blocks,
    transformer_blocks,
)
from dioscuri.families.metroplex.options import HParams, Model
from dioscuri.families.metroplex.presets import Strings, strings


@dataclass(frozen=True, kw_only=True)
class MetroplexPlan(LatentPlan):
    """Every layer of the model, blocks in order of execution. `up` and `down` are of one kind."""

    data_extent: Grid
    patch: Grid  # values per token along every axis
    width: int  # after the input convolution
    input_kernel: Grid
    up: tuple[UpBlock | AttentionUpBlock, ...]
    down: tuple[DownBlock | AttentionDownBlock, ...]
    start: tuple[int, ...]  # resolutions whose state begins with a learned tensor
    finest: int  # resolution of the state that the head reads
    top_width: int  # of the state that the head reads
    transformer: bool
    gated: bool  # rezero
    gelu: Activation
    encoding: str  # of positions: none, encoder or start
    affine: bool  # gain and bias before the head
    head_channels: int  # per pixel
    shared_scale: str  # none, mixtures or full
    separate_colours: bool
    cut_pixels: bool

    @property
    def class_width(self) -> int:
        """Width of the classes' embedding, 0 without classes."""
        return self.width if self.num_classes else 0

    @property
    def groups(self) -> tuple[DownBlock | AttentionDownBlock, ...]:
        """Blocks with latents, in order of execution."""
        return self.down

    @property
    def couples_channels(self) -> bool:
        """Whether the mixture of logistics conditions green on red, and blue on both."""
        return self.channels == 3 and not self.separate_colours

    @property
    def truncates(self) -> bool:
        """Whether pixels are truncated to integer levels."""
        return self.cut_pixels

    @property
    def extent(self) -> Grid:
        """(samples,), (H, W) or (frames, H, W)."""
        return self.data_extent

    @property
    def rank(self) -> int:
        """Number of axes."""
        return len(self.extent)

    @property
    def tokens(self) -> Grid:
        """Finest grid of tokens."""
        return factors(self.extent, self.patch)

    @property
    def patch_size(self) -> int:
        """Values of a channel per token."""
        return prod(self.patch)


@lru_cache  # host logic and both sides of the engine need the same plan
def make_plan(hparams: HParams) -> MetroplexPlan:
    """Compute the plan; a `UserError` names the option that does not fit."""
    model, data = hparams.model, hparams.data
    source = describe(data.dataset_source)
    spec, shape = strings(model, data.target_res), extent(data, source.rank)
    _check_named(model, spec, source.rank)
    patch = patch_shape(model, _patch(model, data.target_res, spec), shape)
    resolutions = [step.resolution for step in encoder_blocks(spec.encoder)]
    resolutions.append(encoder_blocks(spec.encoder)[-1].out_resolution)
    grid = grids(model, factors(shape, patch), resolutions)
    up, down, start, top = (transformer_blocks if model.transformer else convolutional_blocks)(
        model, spec, grid
    )
    absolute, bernoulli = model.likelihood == "absolute", source.likelihood == "bernoulli"
    if absolute and bernoulli:
        raise UserError("[model] likelihood 'absolute' does not suit binary pictures")
    plain = absolute or bernoulli
    return MetroplexPlan(
        resolution=data.target_res,
        channels=data.channels,
        crop=source.padding,
        likelihood="absolute" if absolute else source.likelihood,
        n_mixtures=model.num_mixtures,
        n_levels=1 + max(block.level for block in down),
        num_classes=model.num_classes,
        data_extent=shape,
        patch=patch,
        width=spec.outer_width,
        input_kernel=tuple(3 if length == 1 else 1 for length in patch),
        up=up,
        down=down,
        start=start,
        finest=resolutions[0],
        top_width=top,
        transformer=model.transformer,
        gated=model.transformer and model.rezero,
        gelu=model.gelu,
        encoding=model.abs_enc if model.transformer else "none",
        affine=model.final_fn and prod(patch) == 1,
        head_channels=data.channels if plain else mixture_channels(model.num_mixtures, data.channels),
        shared_scale="none" if plain else model.shared_sigma,
        separate_colours=model.color_non_ar,
        cut_pixels=model.truncate_pixels,
    )


def _check_named(model: Model, spec: Strings, rank: int) -> None:
    """Raise a `UserError` for an option that no block uses."""
    custom_widths, steps = table(model.custom_width_str, "custom_width_str"), encoder_blocks(spec.encoder)
    for name, given, fits, what in (
        ("attn_res", model.attn_res, not model.transformer, "blocks of convolutions"),
        ("custom_width_str", custom_widths, not model.transformer, "blocks of convolutions"),
        (
            "custom_width_str",
            custom_widths,
            model.prog_mode is None,
            "block strings, and prog_mode has its own widths",
        ),
        ("abs_enc", model.abs_enc != "none", model.transformer, "transformer blocks"),
        ("patch_frames", model.patch_frames > 1, rank == 3, "clips of frames"),
        ("custom_frames_str", model.custom_frames_str, rank == 3, "clips of frames"),
    ):
        if given and not fits:
            raise UserError(f"[model] {name} is for {what}: leave it out")
    blocks = {step.resolution for step in steps} | {step.resolution for step in decoder_blocks(spec.decoder)}
    reached = blocks | {steps[-1].out_resolution}  # where channels are padded, even without a block
    for name, given, known in (
        ("attn_res", model.attn_res, blocks),
        ("custom_width_str", custom_widths, reached),
    ):
        if unknown := set(given) - known:
            others = ", ".join(map(str, sorted(known)))
            raise UserError(f"[model] {name}: no block has resolution {min(unknown)}; there are {others}")


def _patch(model: Model, side: int, spec: Strings) -> int:
    """Pixels per side of a token, from the finest resolution of the block strings."""
    finest = max(step.resolution for step in encoder_blocks(spec.encoder))
    if side % finest:
        raise UserError(
            f"[data] target_res {side} is not divisible by {finest}, the finest resolution of enc_blocks "
            f"'{spec.encoder}': no whole patch"
        )
    if model.exp_scale and model.exp_scale != side // finest:
        raise UserError(
            f"[model] exp_scale {model.exp_scale} does not fit: target_res {side} over the finest resolution "
            f"{finest} is {side // finest}"
        )
    return side // finest
