"""Generation: pictures from scratch, by class if the model has classes."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dioscuri.checkpoint.store import Checkpoint
from dioscuri.context import Context
from dioscuri.data.numpy_files import Damaged, read_npy
from dioscuri.data.texts import DECODER_TEXT
from dioscuri.engine import Array
from dioscuri.errors import UserError
from dioscuri.families.token_models.drawing import chosen_classes, decoded, draw
from dioscuri.families.token_models.films import frames_of, save_film
from dioscuri.families.token_models.trace import step_rows, write_rows
from dioscuri.files import write_json
from dioscuri.outputs.pictures import sample_rows, save_grid, save_picture
from dioscuri.outputs.progress import tracked
from dioscuri.outputs.settings import output_folder

N_ON_SHEET = 100


def generate(context: Context, plan: Any, checkpoint: Checkpoint) -> None:
    """Write `generated/image-<i>.png`, `labels.json` with the class of each, and a sheet grouped by class;
    with `synthesis.sheet_only`, only the sheet, with all pictures. `synthesis.film` adds a film and a table
    of the steps of every batch.

    Started again with the same options, an interrupted call continues after its last complete batch and makes
    the same pictures as an uninterrupted one.
    """
    options = context.hparams.synthesis
    n, size = number_of_pictures(options), options.batch_size
    output = output_folder(context, checkpoint, context.directory.images, "generated")
    folder = output.path
    done = 0 if options.sheet_only else _whole(folder, min(output.done, n), size)
    if done:
        context.say(f"continuing after {done} pictures already drawn")
    shown = [_read(folder, i) for i in range(min(done, N_ON_SHEET))]
    room = n if options.sheet_only else N_ON_SHEET
    film, taken = options.film != "none", done * output.drawn.get("steps_taken", 0)
    batches = draw(context, n, ema=options.load_ema_weights, first=done, every_step=film)
    for made in tracked(batches, "generation", -(-(n - done) // size), shown=context.writes):
        shown += list(made["image"][: room - len(shown)])
        if film:
            _save_steps(context, plan, made, folder, f"{done:04d}")
        taken += int(made["taken"].sum())
        if context.writes and not options.sheet_only:
            for i, picture in enumerate(made["image"], start=done):
                save_picture(folder, _stem(i), picture)
        done += len(made["image"])
        if not options.sheet_only:
            output.note(done, drawn={"steps_taken": taken / done})
    if context.writes:
        classes = chosen_classes(context.hparams).tolist()
        if classes and not options.sheet_only:
            write_json(folder / "labels.json", {_stem(i): classes[i % len(classes)] for i in range(n)})
        labels = np.asarray([classes[i % len(classes)] for i in range(len(shown))]) if classes else None
        sheet = save_grid(folder / "contact-sheet.png", *sample_rows(np.stack(shown), labels))
        where = sheet if options.sheet_only else f"{folder}; the first of them: {sheet}"
        context.say(f"{n} pictures in {where}")
    output.note(n, drawn={"steps_taken": taken / n})
    output.finish(n)


def number_of_pictures(options: Any) -> int:
    """Number of pictures to generate: `n_pictures`, or whole batches."""
    number: int = options.n_pictures or options.n_generation_batches * options.batch_size
    return number


def _save_steps(context: Context, plan: Any, made: dict[str, Array], folder: Path, first: str) -> None:
    """Write the film of a batch, or of as many pictures as a sheet shows, and the table of its steps."""
    shown = {name: array[:N_ON_SHEET] for name, array in made.items()}
    frames = frames_of(shown, plan.token_shape, partial(decoded, context, text=shown.get(DECODER_TEXT)))
    if context.writes:
        options = context.hparams.synthesis
        save_film(folder / f"film-{first}.{options.film}", frames)
        unknown = np.ones(made["steps"][:, 0].shape, bool)
        rows = step_rows(made, unknown, getattr(options, "start_step", 0))
        write_rows(folder / f"steps-{first}.csv", rows)


def _stem(i: int) -> str:
    return f"image-{i:04d}"


def _whole(folder: Path, done: int, size: int) -> int:
    """How many of `done` pictures exist; if one is missing, only the complete batches before it count."""
    there = 0
    while there < done and any((folder / f"{_stem(there)}{end}").exists() for end in (".png", ".npy")):
        there += 1
    return there if there == done else there - there % size


def _read(folder: Path, i: int) -> Array:
    """A picture that `save_picture` wrote."""
    path = folder / f"{_stem(i)}.png"
    path = path if path.exists() else path.with_suffix(".npy")
    try:
        if path.suffix == ".npy":
            return np.array(read_npy(path))
        with Image.open(path) as image:
            pixels = np.asarray(image)
    except (Damaged, OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}): remove it, and it is generated again") from error
    return pixels if pixels.ndim == 3 else pixels[..., None]
