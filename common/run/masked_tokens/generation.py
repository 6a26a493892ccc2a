"""Generation: pictures from nothing but masks, and their classes where the model has any."""

from typing import Any

import numpy as np

from common.checkpoint.store import Checkpoint
from common.run.context import Context
from common.run.engine import Array
from common.run.files import write_json
from common.run.masked_tokens.drawing import chosen_classes, draw
from common.run.pictures import in_rows, save_grid, save_picture
from common.run.progress import tracked
from common.run.sampling_record import record_sampling

N_ON_SHEET = 100


def generate(context: Context, _plan: Any, checkpoint: Checkpoint) -> None:
    """Write `generated/image-<i>.png`, `labels.json`, the class of each, `sampling.json` and a sheet, a
    class a column."""
    options = context.hparams.synthesis
    folder = context.directory.images / "generated"
    n = options.n_generation_batches * options.batch_size
    shown: list[Array] = []
    labels: list[int] = []
    batches = draw(context, n, ema=options.load_ema_weights)
    for made in tracked(batches, "generation", options.n_generation_batches, shown=context.writes):
        first = len(shown) * options.batch_size
        labels += made["label"].tolist() if "label" in made else []
        shown.append(made["image"][: max(0, N_ON_SHEET - first)])
        if context.writes:
            for i, picture in enumerate(made["image"], start=first):
                save_picture(folder, f"image-{i:04d}", picture)
    if context.writes:
        record_sampling(context, checkpoint, folder)
        if labels:
            write_json(folder / "labels.json", {f"image-{i:04d}": label for i, label in enumerate(labels)})
        n_columns = min(len(chosen_classes(context.hparams)), 32) or 10
        sheet = save_grid(folder / "contact-sheet.png", in_rows(np.concatenate(shown), n_columns))
        context.say(f"{n} pictures in {folder}; the first of them: {sheet}")
