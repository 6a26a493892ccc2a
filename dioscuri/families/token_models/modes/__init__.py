"""Synthesis modes of token models."""

from collections.abc import Callable
from typing import Any

from dioscuri.checkpoint.store import Checkpoint
from dioscuri.context import Context
from dioscuri.families.token_models.modes.animation import animate
from dioscuri.families.token_models.modes.encoding import encode
from dioscuri.families.token_models.modes.generation import generate
from dioscuri.families.token_models.modes.inpainting import inpaint
from dioscuri.families.token_models.modes.reconstruction import reconstruct

Mode = Callable[[Context, Any, Checkpoint], None]

MODES: dict[str, Mode] = {
    "generation": generate,
    "inpainting": inpaint,
    "animation": animate,
    "reconstruction": reconstruct,
    "encoding": encode,
}


def run(context: Context, plan: Any, checkpoint: Checkpoint) -> None:
    """Run the mode `synthesis.synthesis_mode` with the checkpoint in the engine."""
    MODES[context.hparams.synthesis.synthesis_mode](context, plan, checkpoint)
