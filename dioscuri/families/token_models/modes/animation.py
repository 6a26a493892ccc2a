"""Animation: the model's prediction after every step of sampling, and which tokens are final."""

from math import sqrt
from typing import Any

import numpy as np

from dioscuri.checkpoint.store import Checkpoint
from dioscuri.context import Context
from dioscuri.engine import Array
from dioscuri.families.token_models.drawing import decoded, order
from dioscuri.families.token_models.trace import step_rows, write_rows
from dioscuri.outputs.media import save_frames
from dioscuri.outputs.pictures import GROUND, enlarge, grid, in_rows, save_grid
from dioscuri.outputs.settings import output_folder

MOST_FRAMES = 32
VEIL = 0.6  # opacity of the grey over tokens that are not final


def animate(context: Context, plan: Any, checkpoint: Checkpoint) -> None:
    """Write `animation/steps.png`, with one row per picture and one column per
    step, `animation/steps.gif`, and `animation/steps.csv`, which counts what each step did (`step_rows`).

    Of many steps, some are shown. Tokens that are still masked, or will change, are veiled; the last
    column is the finished picture.
    """
    options = context.hparams.synthesis
    output = output_folder(context, checkpoint, context.directory.images, "animation")
    asked = order(context, 0, options.n_samples)
    made = context.engine.run("generate", asked, ema=options.load_ema_weights, step=0, every_step=True)
    frames = frames_of(context, plan, made)
    if context.writes:
        folder = output.path
        strip = save_grid(folder / "steps.png", [np.stack(row) for row in zip(*frames, strict=True)])
        unknown = np.ones(made["steps"][:, 0].shape, bool)
        write_rows(folder / "steps.csv", step_rows(made, unknown, getattr(options, "start_step", 0)))
        sheets = [enlarge(grid(in_rows(frame, _columns(len(frame))))) for frame in frames]
        context.say(
            f"one row per picture, one column per step: {strip}; animated: "
            f"{save_frames(folder / 'steps.gif', sheets)}"
        )
    output.finish(options.n_samples)


def frames_of(context: Context, plan: Any, made: dict[str, Array]) -> list[Array]:
    """Pictures (B, H, W, C) of some steps, including the first and the last,
    from the result of `generate`."""
    T = made["steps"].shape[1]
    return [
        _veiled(decoded(context, made["steps"][:, t]), made["masked"][:, t], plan.token_shape)
        for t in np.unique(np.linspace(0, T - 1, min(T, MOST_FRAMES)).astype(int))
    ]


def _veiled(pictures: Array, masked: Array, shape: tuple[int, ...]) -> Array:
    """Pictures (B, H, W, C), veiled where tokens (B, L) are masked if they lie on a grid."""
    if len(shape) == 1:
        return pictures
    (B, H, W, _), (h, w) = pictures.shape, shape
    areas = masked.reshape(B, h, w).repeat(H // h, 1).repeat(W // w, 2)[..., None]
    veiled = VEIL * GROUND + (1 - VEIL) * pictures
    return np.where(areas, veiled, pictures).astype(np.uint8)


def _columns(n: int) -> int:
    return max(1, round(sqrt(n)))
