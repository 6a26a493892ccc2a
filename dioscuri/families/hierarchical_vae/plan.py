"""Layer plan of the hierarchical VAE (Efficient-VDVAE, Hazami et al. 2022, figure 2 and appendix)."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import prod, sqrt
from typing import Literal

from dioscuri.data.descriptors import describe
from dioscuri.errors import UserError
from dioscuri.families.hierarchical_vae.options import HParams, Model
from dioscuri.families.latent_models.plan import LatentPlan, mixture_channels

KernelSize = tuple[int, int]
Activation = Literal["silu", "gelu", "gelu_tanh"]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """`n_layers + 2` convolutions, an activation before each: in -> mid, mid -> mid ..., mid -> out."""

    in_channels: int
    mid_channels: int
    out_channels: int
    n_layers: int
    kernel_size: tuple[int, ...]
    edge_kernel_size: tuple[int, ...]
    residual: bool
    activation: Activation = "silu"

    @property
    def convolutions(self) -> tuple[tuple[int, int, tuple[int, ...]], ...]:
        """(in channels, out channels, kernel size) of each convolution."""
        mid = self.mid_channels
        return (
            (self.in_channels, mid, self.edge_kernel_size),
            *((mid, mid, self.kernel_size),) * self.n_layers,
            (mid, self.out_channels, self.edge_kernel_size),
        )


@dataclass(frozen=True, kw_only=True)
class UpBlock:
    """Bottom-up block: cells, then, in the last block of a level, a skip projection and pooling."""

    level: int
    index: int
    resolution: int
    channels: int
    cells: tuple[Cell, ...]
    skip_channels: int  # 0: no skip projection
    pool_stride: int  # 1: no pooling
    pool_channels: int


@dataclass(frozen=True, kw_only=True)
class DownBlock:
    """Top-down block: unpooling in a level's first block if it has a stride, one latent group, then cells."""

    level: int
    index: int
    resolution: int
    in_channels: int
    channels: int
    unpool_stride: int  # 1: no unpooling
    skip_level: int  # bottom-up level whose skip the posterior reads
    prior_net: Cell
    posterior_net: Cell
    variates: int
    cells: tuple[Cell, ...]

    @property
    def grid(self) -> tuple[int, int]:
        """Height and width of the latents."""
        return (self.resolution, self.resolution)


@dataclass(frozen=True, kw_only=True)
class HierarchicalVAEPlan(LatentPlan):
    """Every layer of the model, blocks in order of execution. Latent group `l` belongs to `down[l]`."""

    input_kernel: KernelSize
    input_channels: int
    up: tuple[UpBlock, ...]
    top_resolution: int
    top_channels: int
    down: tuple[DownBlock, ...]
    output_kernel: KernelSize
    output_channels: int

    @property
    def residual_scale(self) -> float:
        """sqrt(1 / latent groups): scale of stable initialisation and of the latents' projection."""
        return sqrt(1 / len(self.down))

    @property
    def class_width(self) -> int:
        """Width of the classes' embedding, 0 without classes."""
        return self.top_channels if self.num_classes else 0

    @property
    def groups(self) -> tuple[DownBlock, ...]:
        """Blocks with latents, in order of execution."""
        return self.down


@lru_cache  # host logic and both sides of the engine need the same plan
def make_plan(hparams: HParams) -> HierarchicalVAEPlan:
    """Compute the plan; a `UserError` names the option that does not fit."""
    model, data = hparams.model, hparams.data
    source = describe(data.dataset_source)
    _check_lengths(model)
    if tuple(model.down_strides) != tuple(reversed(model.up_strides)):
        raise UserError(
            f"[model] down_strides {list(model.down_strides)} must be up_strides reversed, "
            f"{list(reversed(model.up_strides))}"
        )
    shrink = prod(model.up_strides)
    if data.target_res % shrink:
        raise UserError(
            f"[data] target_res {data.target_res} is not divisible by the product of up_strides, {shrink}"
        )
    up = _up_blocks(model, data.target_res)
    down = _down_blocks(model, data.target_res // shrink)
    bernoulli = source.likelihood == "bernoulli"
    return HierarchicalVAEPlan(
        resolution=data.target_res,
        channels=data.channels,
        crop=source.padding,
        likelihood=source.likelihood,
        n_mixtures=model.num_output_mixtures,
        input_kernel=_pair(model.input_kernel_size),
        input_channels=model.input_conv_filters,
        up=up,
        top_resolution=data.target_res // shrink,
        top_channels=model.down_filters[0],
        down=down,
        output_kernel=_pair(model.output_kernel_size),
        output_channels=data.channels
        if bernoulli
        else mixture_channels(model.num_output_mixtures, data.channels),
        n_levels=len(model.down_strides),
        num_classes=model.num_classes,
    )


def _up_blocks(model: Model, resolution: int) -> tuple[UpBlock, ...]:
    blocks, channels = [], model.input_conv_filters
    for level, stride in enumerate(model.up_strides):
        if stride == 1 and model.up_filters[level] != channels:
            raise UserError(
                f"[model] up_filters[{level}] is {model.up_filters[level]} but must be {channels}: "
                "a level of stride 1 keeps its width"
            )
        cell = _cell(model, "up", level, channels, channels)
        n_blocks = model.up_n_blocks_per_res[level] + 1
        for index in range(n_blocks):
            last = index == n_blocks - 1
            blocks.append(
                UpBlock(
                    level=level,
                    index=index,
                    resolution=resolution,
                    channels=channels,
                    cells=(cell,) * model.up_n_blocks[level],
                    skip_channels=model.up_skip_filters[level] if last else 0,
                    pool_stride=stride if last else 1,
                    pool_channels=model.up_filters[level],
                )
            )
        channels, resolution = model.up_filters[level], resolution // stride
    return tuple(blocks)


def _down_blocks(model: Model, resolution: int) -> tuple[DownBlock, ...]:
    blocks, channels, n_levels = [], model.down_filters[0], len(model.down_strides)
    for level, stride in enumerate(model.down_strides):
        width, skip_level = model.down_filters[level], n_levels - 1 - level
        resolution *= stride
        if stride == 1 and width != channels:
            raise UserError(
                f"[model] down_filters[{level}] is {width} but must be {channels}: "
                "a level of stride 1 keeps its width"
            )
        if model.up_skip_filters[skip_level] != width:
            raise UserError(
                f"[model] up_skip_filters[{skip_level}] is {model.up_skip_filters[skip_level]} but must "
                f"equal down_filters[{level}], {width}"
            )
        for index in range(model.down_n_blocks_per_res[level] + 1):
            blocks.append(
                DownBlock(
                    level=level,
                    index=index,
                    resolution=resolution,
                    in_channels=channels,
                    channels=width,
                    unpool_stride=stride if index == 0 else 1,
                    skip_level=skip_level,
                    prior_net=_cell(model, "down", level, width, 2 * width),
                    posterior_net=_cell(model, "down", level, 2 * width, width),
                    variates=model.down_latent_variates[level],
                    cells=(_cell(model, "down", level, width, width),) * model.down_n_blocks[level],
                )
            )
            channels = width
    return tuple(blocks)


def _cell(model: Model, side: str, level: int, inputs: int, outputs: int) -> Cell:
    option, kernel = f"{side}_mid_filters_ratio", getattr(model, f"{side}_kernel_size")[level]
    narrow, ratio = min(inputs, outputs), getattr(model, option)[level]
    mid = int(narrow * ratio)
    if mid < 1:
        raise UserError(f"[model] {option}[{level}] leaves no channel: {narrow} x {ratio:g} is below 1")
    return Cell(
        in_channels=inputs,
        mid_channels=mid,
        out_channels=outputs,
        n_layers=getattr(model, f"{side}_n_layers")[level],
        kernel_size=(kernel, kernel),
        edge_kernel_size=(1, 1) if model.use_1x1_conv else (kernel, kernel),
        residual=inputs == outputs,
    )


def _check_lengths(model: Model) -> None:
    for side in ("up", "down"):
        lists: Mapping[str, tuple] = {
            name: value for name, value in vars(model).items() if name.startswith(f"{side}_")
        }
        reference = f"{side}_strides"
        n = len(lists[reference])
        if n == 0:
            raise UserError(f"[model] {reference} is empty: give one entry per level")
        for name, value in lists.items():
            if len(value) != n:
                raise UserError(f"[model] {name} has {len(value)} entries but {reference} has {n}")


def _pair(kernel: int | tuple[int, int]) -> KernelSize:
    return (kernel, kernel) if isinstance(kernel, int) else kernel
