"""How pictures were drawn, noted beside them, so that an evaluation can tell and a killed run can go on."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dioscuri.checkpoint.store import Checkpoint
from dioscuri.context import Context
from dioscuri.files import read_json, write_json

RECORD = "sampling.json"
UNFINISHED = "unfinished.json"


def sampling_record(context: Context, checkpoint: Checkpoint) -> dict[str, Any]:
    """Run, checkpoint, seed and `[synthesis]` options, as they are read back."""
    run = context.hparams.run
    origin = {"run": run.name, "step": checkpoint.step, "seed": run.seed, "framework": context.engine.name}
    record: dict[str, Any] = json.loads(json.dumps(origin | asdict(context.hparams.synthesis)))
    return record


def record_sampling(context: Context, checkpoint: Checkpoint, folder: Path) -> None:
    """Write the record of the pictures in a folder, which are all there."""
    write_json(folder / RECORD, sampling_record(context, checkpoint))
    (folder / UNFINISHED).unlink(missing_ok=True)


def record_progress(record: dict[str, Any], done: int, folder: Path) -> None:
    """Note how many pictures of the record a folder holds so far."""
    write_json(folder / UNFINISHED, {"record": record, "done": done})


def pictures_done(record: dict[str, Any], folder: Path) -> int:
    """Pictures that a killed run has left in a folder; 0 where they are of another record."""
    path = folder / UNFINISHED
    if not path.exists():
        return 0
    found = read_json(path, "unfinished generation")
    whole = isinstance(found, dict) and found.get("record") == record
    return int(found["done"]) if whole and isinstance(found.get("done"), int) else 0
