"""Synthesis modes of models with groups of latents."""

from collections.abc import Callable

from common.checkpoint.store import Checkpoint
from common.plans.latents import LatentPlan
from common.run.context import Context
from common.run.synthesis.decoding import decode
from common.run.synthesis.divergence import divergence_statistics
from common.run.synthesis.encoding import encode
from common.run.synthesis.generation import generate
from common.run.synthesis.partial import reconstruct_partially
from common.run.synthesis.reconstruction import reconstruct

Mode = Callable[[Context, LatentPlan, Checkpoint], None]

MODES: dict[str, Mode] = {
    "reconstruction": reconstruct,
    "generation": generate,
    "div_stats": divergence_statistics,
    "encoding": encode,
    "decoding": decode,
    "partial": reconstruct_partially,
}


def run(context: Context, plan: LatentPlan, checkpoint: Checkpoint) -> None:
    """Do what `synthesis.synthesis_mode` says with the checkpoint, which the engine holds."""
    MODES[context.hparams.synthesis.synthesis_mode](context, plan, checkpoint)
