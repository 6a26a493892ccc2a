"""Evaluation, report and synthesis modes of models of tokens: masked ones, and those of SUNDAE."""

from collections.abc import Callable
from typing import Any

from common.checkpoint.store import Checkpoint
from common.run.context import Context
from common.run.masked_tokens.animation import animate
from common.run.masked_tokens.encoding import encode
from common.run.masked_tokens.generation import generate
from common.run.masked_tokens.inpainting import inpaint
from common.run.masked_tokens.reconstruction import reconstruct

Mode = Callable[[Context, Any, Checkpoint], None]

MODES: dict[str, Mode] = {
    "generation": generate,
    "inpainting": inpaint,
    "animation": animate,
    "reconstruction": reconstruct,
    "encoding": encode,
}


def run(context: Context, plan: Any, checkpoint: Checkpoint) -> None:
    """Do what `synthesis.synthesis_mode` says with the checkpoint, which the engine holds."""
    MODES[context.hparams.synthesis.synthesis_mode](context, plan, checkpoint)
