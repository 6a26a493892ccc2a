"""CIFAR-10 from its binary version: records of one label byte and 3x32x32 values.

The 10,000 test pictures are put in the order of scikit-learn's `shuffle(random_state=101)`: the first half is
validation, the second half test. The Python version of the data set is refused: it consists of pickles, which
can run code when read.
"""

from pathlib import Path

import numpy as np

from dioscuri.data.options import Options, Split
from dioscuri.data.picture_set import PictureSet, array_set
from dioscuri.data.randomness import fixed_permutation
from dioscuri.errors import UserError

Array = np.ndarray

_RECORD = 1 + 3 * 32 * 32
_INNER = "cifar-10-batches-bin"  # folder inside the archive
_DOWNLOAD = "the binary version (cifar-10-binary.tar.gz; data_scripts/download_and_preprocess.sh cifar10)"


def open_cifar10(options: Options, split: Split) -> PictureSet:
    """Open a split of the set in `dataset_path`/cifar-10, or in the archive's folder inside it."""
    folder = Path(options.data.dataset_path) / "cifar-10"
    names = [f"data_batch_{n}.bin" for n in range(1, 6)] if split == "train" else ["test_batch.bin"]
    batches = [_read_batch(_find(folder, name)) for name in names]
    pictures, labels = (np.concatenate(arrays) for arrays in zip(*batches, strict=True))
    if split == "train":
        return array_set("CIFAR-10 train", pictures, range(len(pictures)), labels)
    order, half = fixed_permutation(len(pictures)), len(pictures) // 2
    chosen = np.sort(order[:half] if split == "validation" else order[half:])
    return array_set(f"CIFAR-10 {split}", pictures[chosen], chosen, labels[chosen])


def _find(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / _INNER / name):
        if path.is_file():
            return path
    stem = name.removesuffix(".bin")
    for pickle in (folder / stem, folder / "cifar-10-batches-py" / stem):
        if pickle.is_file():
            raise UserError(f"{pickle} is a Python pickle, which is never read; get {_DOWNLOAD}")
    raise UserError(
        f"{folder / name} is missing; get {_DOWNLOAD}, or set data.dataset_path to the parent of cifar-10/"
    )


def _read_batch(path: Path) -> tuple[Array, Array]:
    """Pictures (N, 32, 32, 3) and labels (N,) of a file."""
    raw = np.fromfile(path, np.uint8)
    if not raw.size or raw.size % _RECORD:
        raise UserError(f"{path}: {raw.size} bytes are not whole records of {_RECORD}; get {_DOWNLOAD}")
    records = raw.reshape(-1, _RECORD)
    labels = records[:, 0].copy()
    if labels.max() > 9:
        raise UserError(f"{path}: has label {labels.max()}, so it is not CIFAR-10; get {_DOWNLOAD}")
    pictures = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(pictures), labels
