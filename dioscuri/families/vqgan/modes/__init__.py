"""Reports and synthesis modes of image tokenizers."""

from collections.abc import Callable

from dioscuri.checkpoint.store import Checkpoint
from dioscuri.context import Context
from dioscuri.families.vqgan.modes.decoding import decode
from dioscuri.families.vqgan.modes.encoding import encode
from dioscuri.families.vqgan.modes.reconstruction import reconstruct
from dioscuri.families.vqgan.plan import TokenizerPlan

Mode = Callable[[Context, TokenizerPlan, Checkpoint], None]

MODES: dict[str, Mode] = {"reconstruction": reconstruct, "encoding": encode, "decoding": decode}


def run(context: Context, plan: TokenizerPlan, checkpoint: Checkpoint) -> None:
    """Run the mode `synthesis.synthesis_mode` with the checkpoint in the engine."""
    MODES[context.hparams.synthesis.synthesis_mode](context, plan, checkpoint)
