"""Classes that were asked for, and whether the nearest pictures of the reference agree."""

import json
from pathlib import Path

import numpy as np

from dioscuri.errors import UserError
from dioscuri.evaluation.pictures import read_npy
from dioscuri.metrics.distances import nearest_neighbours
from dioscuri.metrics.neighbours import voted

Array = np.ndarray


def read_labels(path: Path, n: int, of: Path) -> Array:
    """Whole numbers (n,) of a `.npy` file, or of the `labels.json` that generation writes; a `UserError`
    if there are not as many as examples in `of`."""
    labels = _of_json(path) if path.suffix == ".json" else read_npy(path)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise UserError(f"{path}: holds {labels.dtype} {labels.shape}, not one integer per picture")
    if len(labels) != n:
        raise UserError(f"{path}: {len(labels)} labels do not fit the {n} examples of {of}")
    return labels.astype(np.int64)


def class_agreement(samples: Array, asked: Array, reference: Array, labels: Array, *, k: int) -> float:
    """Share of the samples (M, D), asked for as classes (M,), that the k nearest of the reference (N, D)
    with labels (N,) vote to be what was asked for; of equally frequent classes the nearest one's wins."""
    _, nearest = nearest_neighbours(samples, reference, k)
    return float((voted(labels[nearest]) == asked).mean())


def _of_json(path: Path) -> Array:
    """Values in the order of the names, as the pictures of a folder are read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return np.array([content[name] for name in sorted(content)])
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: not a table of names and labels ({error})") from error
