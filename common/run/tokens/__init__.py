"""Reports and synthesis modes of image tokenizers."""

from collections.abc import Callable

from common.checkpoint.store import Checkpoint
from common.plans.tokenizers import TokenizerPlan
from common.run.context import Context
from common.run.tokens.decoding import decode
from common.run.tokens.encoding import encode
from common.run.tokens.reconstruction import reconstruct

Mode = Callable[[Context, TokenizerPlan, Checkpoint], None]

MODES: dict[str, Mode] = {"reconstruction": reconstruct, "encoding": encode, "decoding": decode}


def run(context: Context, plan: TokenizerPlan, checkpoint: Checkpoint) -> None:
    """Do what `synthesis.synthesis_mode` says with the checkpoint, which the engine holds."""
    MODES[context.hparams.synthesis.synthesis_mode](context, plan, checkpoint)
