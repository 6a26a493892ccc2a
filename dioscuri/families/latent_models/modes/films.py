"""What the modes write that make a row of pictures of every pair."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from dioscuri.checkpoint.store import Checkpoint
from dioscuri.context import Context
from dioscuri.engine import Array
from dioscuri.families.latent_models.modes.examples import Coder, chosen_pairs
from dioscuri.families.latent_models.plan import LatentPlan
from dioscuri.outputs.media import save_example, save_film
from dioscuri.outputs.pictures import in_rows, save_grid, sheet, visible
from dioscuri.outputs.settings import output_folder

N_ON_SHEET = 8
"""Pairs on the sheet, and pairs of a split that are read by default."""

MakeRow = Callable[[Coder, dict[str, Array], dict[str, Array]], Array]
"""Pictures (N, columns, ...) of the encodings of N pairs."""


def save_pairs(
    context: Context,
    plan: LatentPlan,
    checkpoint: Checkpoint,
    name: str,
    make: MakeRow,
    columns: Sequence[str],
    captions: Sequence[str],
) -> None:
    """Write a row of pictures of every pair in the folder `name`, a GIF of each row, and a sheet and a GIF of
    the first rows. `columns` name the files of a row, `captions` stand above them.

    A killed run continues after its last complete batch; pairs on the sheet are made again.
    """
    pairs = chosen_pairs(context, N_ON_SHEET)
    output = output_folder(context, checkpoint, context.directory.images, name, **pairs.settings)
    size = context.hparams.synthesis.batch_size
    shown: list[Array] = []
    for index, (first, second) in enumerate(pairs.batches(context, name)):
        if index < output.done and index * size >= N_ON_SHEET:
            continue
        coder, valid = Coder(context, plan, index), first["valid"] & second["valid"]
        made = make(coder, coder.encode(first), coder.encode(second))[valid]
        ends = [visible(batch["image"], plan)[valid] for batch in (first, second)]
        for pair, row in enumerate(made, start=index * size):
            if context.writes:
                _save_row(context, output.path, f"pair-{pair:04d}", row, columns)
        whole = np.concatenate([ends[0][:, None], made, ends[1][:, None]], 1)
        shown.extend(whole[: N_ON_SHEET - len(shown)])
        output.note(max(index + 1, output.done))
    if context.writes:
        _save_sheets(output.path, shown, captions)
        context.say(f"{len(pairs)} pairs in {output.path}, the first of them: contact-sheet.png, film.gif")
    output.finish(-(-len(pairs) // size))


def _save_row(context: Context, folder: Path, pair: str, row: Array, columns: Sequence[str]) -> None:
    for column, picture in zip(columns, row, strict=True):
        save_example(folder, f"{pair}-{column}", picture, context.hparams.data)
    save_film(folder / f"{pair}.gif", row)


def _save_sheets(folder: Path, rows: list[Array], captions: Sequence[str]) -> None:
    """A sheet of rows, originals at both ends, and a GIF of the columns between them."""
    save_grid(folder / "contact-sheet.png", rows, [["A", *captions, "B"]])
    if rows[0].ndim == 4:
        columns = np.stack(rows, 1)[1:-1]
        save_film(folder / "film.gif", np.stack([sheet(in_rows(pictures)) for pictures in columns]))
