"""Scores: what the bound says of each picture, in a file that an interrupted call continues."""

import csv
import json
from collections.abc import Iterable, Iterator
from heapq import nlargest, nsmallest
from pathlib import Path
from typing import Any

import numpy as np

from dioscuri.checkpoint.store import Checkpoint
from dioscuri.context import Context
from dioscuri.data import Examples, pipeline
from dioscuri.engine import Array, Batch
from dioscuri.errors import UserError
from dioscuri.families.latent_models.bounds import (
    Unit,
    importance_bound,
    importance_error,
    importance_log_weights,
    unit_of,
)
from dioscuri.families.latent_models.conditions import check_labelled, examples
from dioscuri.families.latent_models.modes.examples import chosen_indices, chosen_pictures
from dioscuri.families.latent_models.plan import LatentPlan
from dioscuri.families.latent_models.scores import by_level, score_row
from dioscuri.files import replacing
from dioscuri.outputs.examples import batches
from dioscuri.outputs.pictures import save_grid, visible
from dioscuri.outputs.reports import write_report
from dioscuri.outputs.settings import output_folder
from dioscuri.outputs.wording import noun

JSONL, CSV, UNFINISHED = "scores.jsonl", "scores.csv", "scores.partial.jsonl"
N_SHOWN = 12


def score(context: Context, plan: LatentPlan, checkpoint: Checkpoint) -> None:
    """Write `scores/scores.jsonl` and `.csv`, a row a picture, their means as `report.json`, and a sheet of
    the best and the worst pictures.

    Terms of the bound use the latents of the mode `reconstruction`, so their means are the same. Rows are
    added to `scores.partial.jsonl` a batch at a time, which a killed call continues.
    """
    options = context.hparams.synthesis
    pictures, settings = chosen_pictures(context)
    check_labelled(pictures, context.hparams)
    indices = chosen_indices(context, pictures, len(pictures))
    output = output_folder(context, checkpoint, context.directory.images, "scores", **settings)
    unfinished, size = output.path / UNFINISHED, options.batch_size
    first = _resume(context, unfinished, size)
    if first:
        context.say(f"continuing after {first * size} {noun(context.hparams)} already scored")
    todo = batches(context, pictures, indices[first * size :], "scores")
    for index, batch in enumerate(todo, start=first):
        rows = list(_rows(context, plan, pictures, batch, index))
        if context.writes:
            with unfinished.open("a") as file:
                file.writelines(json.dumps(row) + "\n" for row in rows)
        output.note(index + 1)
    if context.writes:
        _finish(context, plan, pictures, unfinished, checkpoint.step)
    output.finish(-(-len(indices) // size))


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file of scores, one after the other."""
    with path.open() as file:
        yield from map(json.loads, file)


def _resume(context: Context, path: Path, size: int) -> int:
    """The number of batches that a killed call has written; the last one, which may lack rows, is cut off."""
    batch, start, end = 0, 0, 0
    if path.exists():
        with path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                number = json.loads(line)["index"] // size
                batch, start = (number, end) if number > batch else (batch, start)
                end += len(line)
    context.engine.barrier()  # all have looked before the first one writes
    if context.writes:
        with path.open("ab") as file:
            file.truncate(start)
    return batch


def _rows(
    context: Context, plan: LatentPlan, pictures: Examples, batch: Batch, index: int
) -> Iterator[dict[str, Any]]:
    """A row of each picture of a batch."""
    options, engine = context.hparams.synthesis, context.engine
    given = examples(batch)
    terms = engine.run("reconstruct", given, ema=options.load_ema_weights, step=index, output="mean")
    kl = by_level(plan, terms["kl"].astype(np.float64))
    bound: Array | list[None] = [None] * len(kl)
    error = bound
    if options.importance_samples:
        log_weights = importance_log_weights(
            engine, given, options.importance_samples, ema=options.load_ema_weights, index=index
        )
        bound, error = importance_bound(log_weights), importance_error(log_weights)
    for n in np.flatnonzero(batch["valid"]):
        place = int(batch["index"][n])
        label = None if pictures.labels is None else int(pictures.labels[place])
        of_picture = {"reconstruction": terms["reconstruction"][n], "kl": kl[n]}
        row = {"index": place, "key": pictures.keys[place], "label": label}
        row |= score_row(of_picture, bound[n], error[n], plan.image_dims)
        _check_finite(row)
        yield row


def _check_finite(row: dict[str, Any]) -> None:
    """Raise a `UserError` if a score is not finite."""
    numbers = {f"kl of level {level}": value for level, value in enumerate(row["kl"])}
    numbers |= {name: value for name, value in row.items() if isinstance(value, float)}
    wrong = [name for name, value in numbers.items() if not np.isfinite(value)]
    if wrong:
        raise UserError(
            f"picture '{row['key']}': {wrong[0]} is not finite, because the model's scales overflow: take "
            "another checkpoint, or train again with a lower learning rate"
        )


def _finish(context: Context, plan: LatentPlan, pictures: Examples, path: Path, step: int) -> None:
    """From the rows of all pictures: the table, the means, and the sheet; then they get their final name."""
    folder = path.parent
    _write_csv(folder / CSV, read_rows(path))
    results = _means(plan, read_rows(path))
    write_report(context, folder, results | {"step": step})
    best = nsmallest(N_SHOWN, read_rows(path), key=_rank)
    worst = nlargest(N_SHOWN, read_rows(path), key=_rank)
    unit, shown = unit_of(plan), []
    for rows in (best, worst):
        indices = [row["index"] for row in rows]
        batch = next(
            pipeline.evaluation_batches(pictures, context.hparams, batch_size=len(rows), indices=indices)
        )
        shown.append(visible(batch["image"], plan))
    captions = [[_caption("best", best, unit)], [_caption("worst", worst, unit)]]
    sheet = save_grid(folder / "contact-sheet.png", shown, captions)
    path.replace(folder / JSONL)
    context.say(
        f"{results['pictures']} {noun(context.hparams)} in {folder / JSONL} and {CSV}: mean -ELBO "
        f"{results['negative_elbo']:.4f} {unit.name}; the best and the worst: {sheet}"
    )


def _caption(name: str, rows: list[dict[str, Any]], unit: Unit) -> str:
    first, last = (rows[place]["negative_elbo"] * unit.per_nat for place in (0, -1))
    return f"{name}: -ELBO {first:.3f} to {last:.3f} {unit.name}"


def _rank(row: dict[str, Any]) -> tuple[float, int]:
    return row["negative_elbo"], row["index"]


def _write_csv(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """A column a number; that of a level's divergence is `kl_<level>`."""
    with replacing(path) as beside, beside.open("w", newline="") as file:
        writer = None
        for row in rows:
            flat: dict[str, Any] = {}
            for name, value in row.items():
                flat |= {f"kl_{n}": x for n, x in enumerate(value)} if name == "kl" else {name: value}
            if writer is None:
                writer = csv.DictWriter(file, list(flat))
                writer.writeheader()
            writer.writerow(flat)


def _means(plan: LatentPlan, rows: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Means over all pictures, in the unit of reports, under the names that `reconstruction` gives them."""
    unit, n = unit_of(plan), 0
    sums: dict[str, Any] = {}
    for row in rows:
        n += 1
        for name in ("negative_elbo", "reconstruction", "kl", "importance_weighted_bound"):
            if name in row:
                sums[name] = sums.get(name, 0) + np.asarray(row[name])
    means = {name: (total / n * unit.per_nat).tolist() for name, total in sums.items()}
    means["kl_by_level"] = means.pop("kl")
    return {"unit": unit.name, "pictures": n, **means, **unit.in_nats(means["negative_elbo"] / unit.per_nat)}
