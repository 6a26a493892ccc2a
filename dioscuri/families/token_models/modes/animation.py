"""Animation: the model's prediction after every step of sampling, and which tokens are final."""

from functools import partial
from typing import Any

import numpy as np

from dioscuri.checkpoint.store import Checkpoint
from dioscuri.context import Context
from dioscuri.data.texts import DECODER_TEXT
from dioscuri.families.token_models.drawing import decoded, order
from dioscuri.families.token_models.films import frames_of, save_film
from dioscuri.families.token_models.trace import step_rows, write_rows
from dioscuri.outputs.pictures import save_grid
from dioscuri.outputs.settings import output_folder


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
    frames = frames_of(made, plan.token_shape, partial(decoded, context, text=asked.get(DECODER_TEXT)))
    if context.writes:
        folder = output.path
        strip = save_grid(folder / "steps.png", [np.stack(row) for row in zip(*frames, strict=True)])
        unknown = np.ones(made["steps"][:, 0].shape, bool)
        write_rows(folder / "steps.csv", step_rows(made, unknown, getattr(options, "start_step", 0)))
        film = save_film(folder / "steps.gif", frames)
        context.say(f"one row per picture, one column per step: {strip}; animated: {film}")
    output.note(options.n_samples, drawn={"steps_taken": float(made["taken"].mean())})
    output.finish(options.n_samples)
