"""Evaluation, report and synthesis modes of masked token models."""

from collections.abc import Callable

from common.checkpoint.store import Checkpoint
from common.plans.transformer_plan import TransformerPlan
from common.run.context import Context
from common.run.masked_tokens.animation import animate
from common.run.masked_tokens.generation import generate
from common.run.masked_tokens.inpainting import inpaint

Mode = Callable[[Context, TransformerPlan, Checkpoint], None]

MODES: dict[str, Mode] = {"generation": generate, "inpainting": inpaint, "animation": animate}


def run(context: Context, plan: TransformerPlan, checkpoint: Checkpoint) -> None:
    """Do what `synthesis.synthesis_mode` says with the checkpoint, which the engine holds."""
    MODES[context.hparams.synthesis.synthesis_mode](context, plan, checkpoint)
