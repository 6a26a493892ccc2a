"""Class names: picture folders give them, a run stores them, and every split uses the same numbers."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dioscuri.data.picture_set import PictureSet
from dioscuri.data.tokens import TokenSet
from dioscuri.errors import UserError
from dioscuri.files import read_json, write_json

Examples = PictureSet | TokenSet

FILE = "classes.json"
_SHOWN = 5


def renumbered(examples: Examples, classes: Sequence[str], where: str) -> Examples:
    """Examples whose labels are indices into `classes`; a `UserError` names a class missing there."""
    if not examples.classes or examples.labels is None or tuple(classes) == examples.classes:
        return examples
    numbers = {name: number for number, name in enumerate(classes)}
    used = [examples.classes[label] for label in np.unique(examples.labels)]
    if strange := [name for name in used if name not in numbers]:
        rest = f" and {len(classes) - _SHOWN} more" if len(classes) > _SHOWN else ""
        known = ", ".join(classes[:_SHOWN]) + rest
        raise UserError(
            f"{where}: folder '{strange[0]}' is not one of the run's classes: {known} (those of the training "
            f"pictures: in {FILE}, or numbers)"
        )
    table = np.array([numbers.get(name, -1) for name in examples.classes], np.int32)
    return replace(examples, labels=table[np.asarray(examples.labels)], classes=tuple(classes))


def write_classes(folder: Path, classes: Sequence[str]) -> None:
    """Write the names and numbers to a run's folder."""
    write_json(folder / FILE, {name: number for number, name in enumerate(classes)})


def check_learnt_classes(learnt: Any, classes: Sequence[str], folder: Path) -> None:
    """Raise a `UserError` if the class names `learnt` of a checkpoint now have other numbers; either list may
    be empty."""
    if learnt and classes and list(learnt) != list(classes):
        differing = [name for name in (*learnt, *classes) if _number(name, learnt) != _number(name, classes)]
        raise UserError(
            f"classes: the checkpoint has learnt other numbers than {folder / FILE} or the training folder "
            f"gives, such as that of '{differing[0]}': put them back as they were, or choose another run.name"
        )


def _number(name: str, classes: Sequence[str]) -> int | None:
    return list(classes).index(name) if name in classes else None


def read_classes(folder: Path) -> tuple[str, ...]:
    """The names of a run, empty if it stores none. A `UserError` if the file is damaged."""
    path = folder / FILE
    if not path.exists():
        return ()
    table: Any = read_json(path, "classes")
    if not isinstance(table, dict) or list(table.values()) != list(range(len(table))):
        raise UserError(f"classes: {path} is not a table of names and numbers 0, 1, ...: repair or remove it")
    return tuple(table)
