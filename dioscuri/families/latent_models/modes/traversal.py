"""Traversal: pictures of a single latent variate, or group, from one end of its prior to the other."""

from pathlib import Path

import numpy as np

from dioscuri.checkpoint.store import Checkpoint
from dioscuri.context import Context
from dioscuri.engine import Array
from dioscuri.families.latent_models.conditions import check_walked
from dioscuri.families.latent_models.exploration import (
    Variate,
    ranked,
    read_variates,
    traversal,
    variate_name,
)
from dioscuri.families.latent_models.modes.divergence import read_statistics
from dioscuri.families.latent_models.modes.examples import Coder, chosen_indices, chosen_pictures
from dioscuri.families.latent_models.plan import LatentPlan
from dioscuri.outputs.examples import batches
from dioscuri.outputs.media import save_example, save_film
from dioscuri.outputs.pictures import in_rows, save_grid, sheet
from dioscuri.outputs.settings import output_folder

N_PICTURES = 4
"""Pictures of a split that are read by default."""


def traverse(context: Context, plan: LatentPlan, checkpoint: Checkpoint) -> None:
    """Write `traversal/image-<i>-group-<g>-variate-<v>-step-<s>.png`, and a sheet and a GIF of every picture:
    a row a variate, from -`spread` to +`spread` standard deviations of its prior."""
    options = context.hparams.synthesis
    variates, origin = _variates(context, plan, checkpoint)
    pictures, settings = chosen_pictures(context)
    check_walked(pictures, context.hparams)
    indices = chosen_indices(context, pictures, N_PICTURES)
    output = output_folder(
        context, checkpoint, context.directory.images, "traversal", **settings, variates=origin
    )
    offsets, size = np.linspace(-options.spread, options.spread, options.n_frames), options.batch_size
    for index, batch in enumerate(batches(context, pictures, indices, "traversal")):
        if index < output.done:
            continue
        coder = Coder(context, plan, index)
        encoded = coder.encode(batch)
        made = [
            traversal(plan, encoded, variate, offsets, coder.decode, rest=options.rest)[batch["valid"]]
            for variate in variates
        ]
        if context.writes:
            for number, rows in enumerate(np.stack(made, 1), start=index * size):
                _save(context, output.path, f"image-{number:04d}", rows, variates, offsets)
        output.note(index + 1)
    context.say(f"{len(variates)} variates of {len(indices)} pictures, a sheet and a GIF each: {output.path}")
    output.finish(-(-len(indices) // size))


def _variates(
    context: Context, plan: LatentPlan, checkpoint: Checkpoint
) -> tuple[list[Variate], dict[str, str]]:
    """Those of `synthesis.variates`, or the ones that `div_stats` ranks highest; and where that stands."""
    options = context.hparams.synthesis
    if options.variates:
        return read_variates(plan, options.variates, "[synthesis] variates"), {"statistics": "not needed"}
    statistics, origin = read_statistics(
        context, plan, checkpoint, "traversal", "name variates with synthesis.variates=[[group, variate]]"
    )
    return ranked(statistics, options.n_variates), origin


def _save(
    context: Context, folder: Path, name: str, rows: Array, variates: list[Variate], offsets: Array
) -> None:
    """Files of a picture's rows (variates, steps, ...)."""
    for variate, row in zip(variates, rows, strict=True):
        stem = f"{name}-{variate_name(variate).replace(', ', '-').replace(' ', '-')}"
        for step, picture in enumerate(row):
            save_example(folder, f"{stem}-step-{step:03d}", picture, context.hparams.data)
    captions = [[variate_name(variate)] for variate in variates]
    captions[0] = [f"{captions[0][0]}: {offsets[0]:+g} to {offsets[-1]:+g} standard deviations"]
    save_grid(folder / f"{name}.png", list(rows), captions)
    if rows.ndim == 5:
        save_film(folder / f"{name}.gif", np.stack([sheet(in_rows(rows[:, s])) for s in range(len(offsets))]))
