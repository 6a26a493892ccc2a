"""What each step of sampling did, as a table."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from dioscuri.engine import Array
from dioscuri.files import replacing

Row = dict[str, float]


def step_rows(made: Mapping[str, Array], unknown: Array, first: int = 0) -> list[Row]:
    """One row for each step of a sampler.

    `made` has `steps` (N, T, L), the predicted tokens, `masked` (N, T, L), those masked again after the
    step, and `taken` (N,), the number of steps that a picture took. `unknown` (N, L) are masked before the
    first step, whose number is `first`. Steps that no picture took have no row.

    Numbers of tokens are means over the pictures: `masked_before`, `masked_after`, `written`, no longer
    masked, and `changed`, predicted otherwise than in the step before (in the first: all that were unknown).
    `running` is the share of the pictures that took the step.
    """
    T = int(made["taken"].max())
    steps, masked = made["steps"][:, :T], made["masked"][:, :T].astype(bool)
    before = np.concatenate([unknown[:, None].astype(bool), masked[:, :-1]], 1)
    changed = np.concatenate([before[:, :1], steps[:, 1:] != steps[:, :-1]], 1)
    columns = {
        "masked_before": before,
        "masked_after": masked,
        "written": before & ~masked,
        "changed": changed,
    }
    counts = {name: column.sum(2).mean(0) for name, column in columns.items()}
    return [
        {
            "step": first + k,
            **{name: float(column[k]) for name, column in counts.items()},
            "running": float((made["taken"] > k).mean()),
        }
        for k in range(T)
    ]


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write a table as CSV."""
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows({name: round(value, 6) for name, value in row.items()} for row in rows)
