"""Extents of data and grids of tokens: sounds have one axis, pictures two, clips three.

A block string names a resolution by one number: the length of a sound's grid, or the side of a picture's or
frame's. For clips, this module adds the number of time steps.
"""

from collections.abc import Callable
from itertools import pairwise

from dioscuri.errors import UserError
from dioscuri.families.metroplex.block_strings import table
from dioscuri.families.metroplex.options import Model
from dioscuri.hparams.sections import Data

Grid = tuple[int, ...]

AXES: dict[int, tuple[str, ...]] = {1: ("time",), 2: ("row", "column"), 3: ("time", "row", "column")}
"""Names of the axes, by their number."""


def extent(data: Data, rank: int) -> Grid:
    """(samples,), (H, W) or (frames, H, W) of an example."""
    side = data.target_res
    return {1: (side,), 2: (side, side), 3: (data.frames, side, side)}[rank]


def patch_shape(model: Model, side: int, shape: Grid) -> Grid:
    """Values per token along every axis, `side` of them in space; a `UserError`
    if the frames do not divide."""
    if len(shape) < 3:
        return (side,) * len(shape)
    if shape[0] % model.patch_frames:
        raise UserError(
            f"[data] frames {shape[0]} is not divisible by [model] patch_frames {model.patch_frames}: no "
            "whole patch"
        )
    return (model.patch_frames, side, side)


def grids(model: Model, tokens: Grid, resolutions: list[int]) -> Callable[[int], Grid]:
    """Resolution -> grid. `tokens` is the finest grid, `resolutions` are all
    resolutions in the encoder's order.

    The time of clips is downsampled like space, down to one step, unless `custom_frames_str` says otherwise.
    A `UserError` if the steps of one grid do not divide those of the next finer one.
    """
    if len(tokens) < 3:
        return lambda resolution: (resolution,) * len(tokens)
    steps, finest, custom = tokens[0], tokens[-1], table(model.custom_frames_str, "custom_frames_str")

    def grid(resolution: int) -> Grid:
        return (custom.get(resolution, max(1, steps * resolution // finest)), resolution, resolution)

    if grid(finest)[0] != steps:
        raise UserError(
            f"[model] custom_frames_str gives resolution {finest} {grid(finest)[0]} time steps, but the "
            f"frames give {steps}"
        )
    for fine, coarse in pairwise(sorted(set(resolutions), reverse=True)):
        if grid(fine)[0] % grid(coarse)[0]:
            raise UserError(
                f"[model] {grid(fine)[0]} time steps at resolution {fine} are not divisible by "
                f"{grid(coarse)[0]} at {coarse}: set custom_frames_str, such as '{fine}:4,{coarse}:2'"
            )
    return grid


def factors(fine: Grid, coarse: Grid) -> Grid:
    """Downsampling factor of every axis from one grid to the other."""
    return tuple(a // b for a, b in zip(fine, coarse, strict=True))


def kernel(grid: Grid, side: int = 3) -> Grid:
    """Kernel of a convolution: `side` along axes of more than two tokens, else 1."""
    return tuple(side if length > 2 else 1 for length in grid)
