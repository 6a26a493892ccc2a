"""MNIST, and its subset of 10,000 digits with a custom split."""

import hashlib
import shutil
from pathlib import Path

import numpy as np

from data_scripts.request import Remote, Request
from dioscuri.data.idx import read_idx, write_idx
from dioscuri.errors import UserError

Array = np.ndarray

_BASE = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_SHA256 = {
    "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
FILES = {
    name: Remote(name=name, url=_BASE + name, checksum=f"sha256:{digest}") for name, digest in _SHA256.items()
}

SUBSET_SHA256 = "30862282ee47a6f563d169bf692213ed792b5189ba5b8ef1cb7eb676e6ff1629"
"""Checksums of the subset: training pictures, training labels, test pictures, test labels."""

_SUBSET_SIZE = 10_000
_SUBSET_TEST_SIZE = 1_000


def prepare_mnist(request: Request) -> None:
    """Download the four original files into `mnist`."""
    with request.building("mnist") as folder:
        for remote in FILES.values():
            shutil.copyfile(request.get(remote), folder / remote.name)


def prepare_mnist10k(request: Request) -> None:
    """Derive `mnist10k` from the original training files and check that it is the known subset."""
    pictures = read_idx(_original(request, "train-images-idx3-ubyte.gz"))
    labels = read_idx(_original(request, "train-labels-idx1-ubyte.gz"))
    train, test = split_subset(labels[:_SUBSET_SIZE], _SUBSET_TEST_SIZE)
    arrays = [pictures[train], labels[train], pictures[test], labels[test]]
    digest = hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()
    if digest != SUBSET_SHA256:
        raise UserError(
            f"the derived subset has sha256 {digest}, not {SUBSET_SHA256}: the source is not the original "
            "MNIST"
        )
    with request.building("mnist10k") as folder:
        for name, array in zip(FILES, arrays, strict=True):
            write_idx(folder / name, array)


def split_subset(labels: Array, n_test: int) -> tuple[Array, Array]:
    """Indices of the training and test digits among digits with `labels` (N,).

    With n_c digits of class c in original order, k_c = n_test * n_c // N of them are test digits, plus one
    for the classes with the largest remainders (ties: the smaller class) until there are `n_test`: those with
    numbers int((j + 0.5) * n_c / k_c), j = 0 ... k_c - 1. Each split is sorted so that classes alternate: by
    (position + 0.5) over the size of the class in that split, then by class, then by number.
    """
    classes = [np.flatnonzero(labels == c) for c in range(10)]
    quotas = [divmod(n_test * len(digits), len(labels)) for digits in classes]
    shares, remainders = zip(*quotas, strict=True)
    by_remainder = sorted(range(10), key=lambda c: (-remainders[c], c))
    extra = set(by_remainder[: n_test - sum(shares)])
    tests, trains = [], []
    for c, digits in enumerate(classes):
        k = shares[c] + (c in extra)
        numbers = [int((j + 0.5) * len(digits) / k) for j in range(k)]
        tests.append(digits[numbers])
        trains.append(np.delete(digits, numbers))
    return _interleave(trains), _interleave(tests)


def _interleave(classes: list[Array]) -> Array:
    keyed = [
        ((at + 0.5) / len(examples), c, index)
        for c, examples in enumerate(classes)
        for at, index in enumerate(examples)
    ]
    return np.array([index for _, _, index in sorted(keyed)], dtype=np.int64)


def _original(request: Request, name: str) -> Path:
    """A file of the full set, if that has been prepared, else downloaded."""
    prepared = request.output / "mnist" / name
    return prepared if prepared.exists() else request.get(FILES[name])
