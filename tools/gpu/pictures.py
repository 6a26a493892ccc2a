"""The pictures that models are trained on: real ones from a folder, or random ones for a rehearsal."""

import gzip
import io
import struct
from pathlib import Path

import numpy as np
from PIL import Image

from dioscuri.errors import UserError

CIFAR, MNIST = "cifar10_jpeg_20k.npz", "mnist10k.npz"
"""`CIFAR`: `jpeg`, bytes of all files; picture i is `jpeg[offsets[i]:offsets[i + 1]]`, the first `n_train`
are for training; `labels`. `MNIST`: `x_train` and `x_test` (N, 28, 28), `y_train`, `y_test`, all uint8."""

Array = np.ndarray


def random_pictures(folder: Path, n_train: int = 120, n_test: int = 40) -> None:
    """Write both files with random pictures."""
    rng, n = np.random.default_rng(0), n_train + n_test
    files = []
    for _ in range(n):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(buffer, "JPEG")
        files.append(buffer.getvalue())
    np.savez(
        folder / CIFAR,
        jpeg=np.frombuffer(b"".join(files), np.uint8),
        offsets=np.cumsum([0, *map(len, files)]),
        labels=np.arange(n, dtype=np.uint8) % 10,
        n_train=n_train,
    )
    digits = rng.integers(0, 256, (n, 28, 28), np.uint8)
    labels = np.arange(n, dtype=np.uint8) % 10
    np.savez(
        folder / MNIST,
        x_train=digits[:n_train], x_test=digits[n_train:], y_train=labels[:n_train], y_test=labels[n_train:],
    )  # fmt: skip


def write_cifar(source: Path, target: Path) -> None:
    """The JPEGs as the files of CIFAR-10's binary version, in `target/cifar-10`."""
    arrays = _read(source / CIFAR)
    folder = target / "cifar-10"
    folder.mkdir(parents=True)
    n_train = int(arrays["n_train"])
    for number, indices in enumerate(np.array_split(np.arange(n_train), 5), 1):
        (folder / f"data_batch_{number}.bin").write_bytes(_records(arrays, indices))
    rest = np.arange(n_train, len(arrays["offsets"]) - 1)
    (folder / "test_batch.bin").write_bytes(_records(arrays, rest))


def write_mnist(source: Path, target: Path) -> None:
    """The digits as MNIST's four files, in `target/mnist10k`."""
    arrays = _read(source / MNIST)
    folder = target / "mnist10k"
    folder.mkdir(parents=True)
    for stem, split in (("train", "train"), ("t10k", "test")):
        pictures, labels = arrays[f"x_{split}"], arrays[f"y_{split}"]
        head = struct.pack(">4B3I", 0, 0, 8, 3, *pictures.shape)
        _write(folder / f"{stem}-images-idx3-ubyte.gz", head + pictures.tobytes())
        _write(
            folder / f"{stem}-labels-idx1-ubyte.gz",
            struct.pack(">4BI", 0, 0, 8, 1, len(labels)) + labels.tobytes(),
        )


def _read(file: Path) -> dict[str, Array]:
    if not file.is_file():
        raise UserError(f"{file} does not exist: give the folder that holds it with --data")
    with np.load(file, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files if name != "class_names"}


def _records(arrays: dict[str, Array], indices: Array) -> bytes:
    """One label and 3x32x32 values of each picture."""
    records = []
    for index in indices:
        first, last = arrays["offsets"][index : index + 2]
        picture = np.asarray(Image.open(io.BytesIO(arrays["jpeg"][first:last].tobytes())).convert("RGB"))
        records.append(bytes([arrays["labels"][index]]) + picture.transpose(2, 0, 1).tobytes())
    return b"".join(records)


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(gzip.compress(content, 1))
