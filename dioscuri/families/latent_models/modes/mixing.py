"""Mixing: the coarse latents of one picture and the fine ones of another."""

from dioscuri.checkpoint.store import Checkpoint
from dioscuri.context import Context
from dioscuri.engine import Array
from dioscuri.families.latent_models.exploration import mixing_cuts, mixtures
from dioscuri.families.latent_models.modes.examples import Coder
from dioscuri.families.latent_models.modes.films import save_pairs
from dioscuri.families.latent_models.plan import LatentPlan

N_CUTS = 10


def mix(context: Context, plan: LatentPlan, checkpoint: Checkpoint) -> None:
    """Write `mixing/pair-<i>-groups-<k>.png`, k counting the groups of the first picture, a GIF of every
    pair, and a sheet and a GIF of the first ones."""
    cuts = mixing_cuts(len(plan.groups), N_CUTS)

    def mixed(coder: Coder, first: dict[str, Array], second: dict[str, Array]) -> Array:
        return mixtures(plan, first, second, cuts, coder.decode)

    names = [f"groups-{cut:03d}" for cut in cuts]
    captions = [f"{cut}/{len(plan.groups)}" for cut in cuts]
    save_pairs(context, plan, checkpoint, "mixing", mixed, names, captions)
