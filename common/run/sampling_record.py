"""How pictures were drawn, noted beside them, so that an evaluation can tell."""

from dataclasses import asdict
from pathlib import Path

from common.checkpoint.store import Checkpoint
from common.run.context import Context
from common.run.files import write_json

RECORD = "sampling.json"


def record_sampling(context: Context, checkpoint: Checkpoint, folder: Path) -> None:
    """Write run, checkpoint, seed and `[synthesis]` options of the pictures in a folder."""
    run = context.hparams.run
    origin = {"run": run.name, "step": checkpoint.step, "seed": run.seed, "framework": context.engine.name}
    write_json(folder / RECORD, origin | asdict(context.hparams.synthesis))
