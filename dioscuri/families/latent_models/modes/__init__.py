"""Synthesis modes of models with groups of latents."""

from collections.abc import Callable

from dioscuri.checkpoint.store import Checkpoint
from dioscuri.context import Context
from dioscuri.families.latent_models.modes.decoding import decode
from dioscuri.families.latent_models.modes.divergence import divergence_statistics
from dioscuri.families.latent_models.modes.encoding import encode
from dioscuri.families.latent_models.modes.generation import generate
from dioscuri.families.latent_models.modes.interpolation import interpolate
from dioscuri.families.latent_models.modes.mixing import mix
from dioscuri.families.latent_models.modes.partial import reconstruct_partially
from dioscuri.families.latent_models.modes.reconstruction import reconstruct
from dioscuri.families.latent_models.modes.scores import score
from dioscuri.families.latent_models.modes.traversal import traverse
from dioscuri.families.latent_models.plan import LatentPlan

Mode = Callable[[Context, LatentPlan, Checkpoint], None]

MODES: dict[str, Mode] = {
    "reconstruction": reconstruct,
    "generation": generate,
    "div_stats": divergence_statistics,
    "encoding": encode,
    "decoding": decode,
    "partial": reconstruct_partially,
    "interpolation": interpolate,
    "traversal": traverse,
    "mixing": mix,
    "scores": score,
}


def run(context: Context, plan: LatentPlan, checkpoint: Checkpoint) -> None:
    """Run the mode `synthesis.synthesis_mode` with the checkpoint in the engine."""
    MODES[context.hparams.synthesis.synthesis_mode](context, plan, checkpoint)
