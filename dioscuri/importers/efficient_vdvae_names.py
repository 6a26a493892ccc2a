"""Key table between Efficient-VDVAE's two programs and the canonical names, driven by the layer plan.

A row of the table is one tensor: its canonical name, its name in the PyTorch program's state dict, its path
in the JAX program's flax tree, and its kind, which determines its axes in flax. Rows are in the order of the
PyTorch program's `model.parameters()`, by which its optimiser numbers them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Literal

import numpy as np
from einops import rearrange

from dioscuri.errors import UserError
from dioscuri.families.hierarchical_vae.plan import Cell, HierarchicalVAEPlan

Kind = Literal["kernel", "bias", "image"]
Module = tuple[str, str, str]  # canonical prefix, torch prefix, flax path


@dataclass(frozen=True, kw_only=True)
class Key:
    """One tensor under its three names. `trained` is False where nothing reads the layer's output."""

    name: str
    torch: str
    flax: str
    kind: Kind
    mixture_output: bool = False
    trained: bool = True


def key_table(plan: HierarchicalVAEPlan) -> tuple[Key, ...]:
    """All tensors of the plan in the order of the PyTorch program's parameters.

    That program has a separate list for a level's strided block (the last one bottom-up, the first one
    top-down). A `UserError` if the model has classes, which the original programs lack.
    """
    if plan.num_classes:
        raise UserError("[model] num_classes must be 0: Efficient-VDVAE has no classes to convert from or to")
    mixture = plan.likelihood == "mixture_of_logistics"
    ends = {block.level: n for n, block in enumerate(plan.up)}
    inner_up = [_up_block(plan, n) for n, block in enumerate(plan.up) if n != ends[block.level]]
    last_up = [_up_block(plan, n, strided=True) for n in ends.values()]
    inner_down = [_down_block(plan, n) for n, block in enumerate(plan.down) if block.index > 0]
    first_down = [_down_block(plan, n, strided=True) for n, block in enumerate(plan.down) if block.index == 0]
    return (
        *chain.from_iterable(inner_up + last_up),
        *_conv(("bottom_up.input_conv", "bottom_up.input_conv", "bottom_up/input_conv")),
        _image(("top_down.trainable_h", "top_down.trainable_h", "top_down/trainable_h")),
        *chain.from_iterable(inner_down + first_down),
        *_conv(
            ("top_down.output_conv", "top_down.output_conv", "top_down/output_conv"), mixture_output=mixture
        ),
    )


def from_flax_layout(key: Key, array: np.ndarray, plan: HierarchicalVAEPlan) -> np.ndarray:
    """Flax tensor -> canonical layout: OIHW, NCHW, the mixture's parameters grouped by picture channel."""
    if key.kind != "bias":
        array = rearrange(array, "h w i o -> o i h w" if key.kind == "kernel" else "n h w c -> n c h w")
    return array[mixture_order(plan)] if key.mixture_output else array


def flax_shape(key: Key, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape in the flax tree of a tensor with this canonical shape."""
    if key.kind == "bias":
        return shape
    first, second, height, width = shape
    return (height, width, second, first) if key.kind == "kernel" else (first, height, width, second)


def mixture_order(plan: HierarchicalVAEPlan) -> np.ndarray:
    """Index of each canonical output channel in the JAX program's output.

    Both begin with M logits. JAX continues with (parameter kind, component, picture channel), the canonical
    order with (picture channel, parameter kind, component).
    """
    logits, rest = np.split(np.arange(plan.output_channels), [plan.n_mixtures])
    return np.concatenate([logits, rearrange(rest, "(k_m c) -> (c k_m)", c=plan.channels)])


def _up_block(plan: HierarchicalVAEPlan, n: int, *, strided: bool = False) -> Iterator[Key]:
    block = plan.up[n]
    level, index = block.level, block.index
    torch = f"levels_up_downsample.{level}" if strided else f"levels_up.{level}.{index}"
    flax = f"block_up_level_{level}_{'downsample' if strided else index}"
    names = (f"bottom_up.blocks.{n}", f"bottom_up.{torch}", f"bottom_up/{flax}")
    yield from _cells(names, block.cells)
    if block.skip_channels:
        yield from _conv(_join(names, "skip_projection", "skip_projection", "skip_projection"))
    if block.pool_stride > 1:
        is_read = n != len(plan.up) - 1
        yield from _conv(_join(names, "pool", "pool.ops.0", "pooling_layer/conv"), trained=is_read)


def _down_block(plan: HierarchicalVAEPlan, n: int, *, strided: bool = False) -> Iterator[Key]:
    block = plan.down[n]
    level, index = block.level, block.index - 1
    torch = f"levels_down_upsample.{level}" if strided else f"levels_down.{level}.{index}"
    flax = f"block_down_level_{level}_{'upsample' if strided else index}"
    names = (f"top_down.blocks.{n}", f"top_down.{torch}", f"top_down/{flax}")
    if block.unpool_stride > 1:
        yield _image(_join(names, "unpool.scale_bias", "unpool.scale_bias", "unpooling_layer/scale_bias"))
        yield from _conv(_join(names, "unpool.conv", "unpool.ops.0", "unpooling_layer/conv"))
    yield from _cells(names, block.cells)
    yield from _cell(_join(names, "posterior_net", "posterior_net.0", "posterior_net"), block.posterior_net)
    yield from _cell(_join(names, "prior_net", "prior_net.0", "prior_net"), block.prior_net)
    for layer in ("prior", "posterior"):
        path = f"{layer}_gaussian_layer/projection"
        yield from _conv(_join(names, f"{layer}_layer", f"{layer}_layer.projection", path))
    yield from _conv(_join(names, "z_projection", "z_projection", "z_projection/z_projection"))


def _cells(names: Module, cells: tuple[Cell, ...]) -> Iterator[Key]:
    for b, cell in enumerate(cells):
        yield from _cell(_join(names, f"cells.{b}", f"residual_block.{b}", f"residual_block_{b}"), cell)


def _cell(names: Module, cell: Cell) -> Iterator[Key]:
    for k in range(len(cell.convolutions)):
        yield from _conv(_join(names, f"convs.{k}", f"convs.{2 * k + 1}", f"conv_{k}"))


def _conv(names: Module, *, trained: bool = True, mixture_output: bool = False) -> Iterator[Key]:
    name, torch, flax = names
    kinds: tuple[tuple[str, Kind], ...] = (("weight", "kernel"), ("bias", "bias"))
    for leaf, kind in kinds:
        yield Key(
            name=f"{name}.{leaf}",
            torch=f"{torch}.{leaf}",
            flax=f"{flax}/conv/{kind}",
            kind=kind,
            mixture_output=mixture_output,
            trained=trained,
        )


def _image(names: Module) -> Key:
    return Key(name=names[0], torch=names[1], flax=names[2], kind="image")


def _join(names: Module, canonical: str, torch: str, flax: str) -> Module:
    return f"{names[0]}.{canonical}", f"{names[1]}.{torch}", f"{names[2]}/{flax}"
