"""Requested classes, and whether the nearest pictures of the reference agree with them."""

import json
from pathlib import Path

import numpy as np

from dioscuri.errors import UserError
from dioscuri.evaluation.pictures import read_npy
from dioscuri.files import plain_bytes
from dioscuri.metrics.distances import nearest_neighbours
from dioscuri.metrics.neighbours import majority_vote

Array = np.ndarray


def read_labels(path: Path, n: int, of: Path) -> Array:
    """Integers (n,) of a `.npy` file, or of the `labels.json` that generation writes; a `UserError` unless
    there are as many as examples in `of`."""
    labels = _of_json(path) if path.suffix == ".json" else read_npy(path)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise UserError(f"{path}: holds {labels.dtype} {labels.shape}, not one integer per picture")
    if len(labels) != n:
        raise UserError(f"{path}: {len(labels)} labels do not fit the {n} examples of {of}")
    return labels.astype(np.int64)


def class_agreement(samples: Array, requested: Array, reference: Array, labels: Array, *, k: int) -> float:
    """Fraction of the samples (M, D) whose requested class (M,) is the majority vote of their k nearest
    neighbours in the reference (N, D), which has labels (N,); ties go to the nearest."""
    _, nearest = nearest_neighbours(samples, reference, k)
    return float((majority_vote(labels[nearest]) == requested).mean())


def _of_json(path: Path) -> Array:
    """Values in the order of the names, the order in which a folder's pictures are read."""
    try:
        content = json.loads(plain_bytes(path))
        return np.array([content[name] for name in sorted(content)])
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: not a table of names and labels ({error})") from error
