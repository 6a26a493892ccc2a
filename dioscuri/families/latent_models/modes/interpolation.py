"""Interpolation: from the latents of one picture to those of another, all levels or some."""

import numpy as np

from dioscuri.checkpoint.store import Checkpoint
from dioscuri.context import Context
from dioscuri.engine import Array
from dioscuri.families.latent_models.exploration import check_rest, film, read_levels
from dioscuri.families.latent_models.modes.examples import Coder
from dioscuri.families.latent_models.modes.films import save_pairs
from dioscuri.families.latent_models.plan import LatentPlan


def interpolate(context: Context, plan: LatentPlan, checkpoint: Checkpoint) -> None:
    """Write `interpolation/pair-<i>-frame-<t>.png`, a GIF of every pair, and a sheet and a GIF of the first
    ones."""
    options = context.hparams.synthesis
    levels = read_levels(plan, options.levels, "[synthesis] levels")
    check_rest(options.rest, levels)

    def between(coder: Coder, first: dict[str, Array], last: dict[str, Array]) -> Array:
        return film(
            plan,
            first,
            last,
            options.n_frames,
            coder.decode,
            path=options.interpolation,
            levels=levels,
            rest=options.rest,
        )

    names = [f"frame-{t:03d}" for t in range(options.n_frames)]
    captions = [f"{share:.2f}" for share in np.linspace(0, 1, options.n_frames)]
    save_pairs(context, plan, checkpoint, "interpolation", between, names, captions)
