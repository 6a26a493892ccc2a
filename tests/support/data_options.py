"""Options and tiny files for the tests of `dioscuri/data`."""

import gzip
import struct
from types import SimpleNamespace

import numpy as np


def make_options(source, resolution, channels, *, seed=5, num_cpus=2, **data):
    """The options of a run that data loading reads."""
    values = {
        "dataset_source": source,
        "train_data_path": "",
        "val_data_path": "",
        "synthesis_data_path": "",
        "dataset_path": "",
        "target_res": resolution,
        "channels": channels,
        "num_bits": 8.0,
        "frames": 0,
        "sample_rate": 0,
        "sample_encoding": "none",
        "random_horizontal_flip": True,
        "fast_jpeg": False,
        "skip_corrupt": False,
        "labels": False,
        "legacy_crop": False,
        "random_crop": False,
        "random_rotation": 0.0,
        "random_scale": 0.0,
        "random_shear": 0.0,
        "random_translation": 0.0,
        "min_size": 0,
        "max_pwatermark": None,
        "min_aesthetic_score": None,
        "max_pnsfw": None,
        "require_marked_as_ok_by_spawning": False,
        "require_marked_as_not_getty": False,
        "text_seq_len": 0,
        "padding_id": 0,
    }
    return SimpleNamespace(
        run=SimpleNamespace(seed=seed, num_cpus=num_cpus), data=SimpleNamespace(**{**values, **data})
    )


def paths(folder):
    """The three path options, all with the same path."""
    return dict.fromkeys(("train_data_path", "val_data_path", "synthesis_data_path"), str(folder))


def idx_bytes(array):
    """An idx file, made independently of the program's writer."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_mnist(folder, n_train, n_test, *, packed=True):
    """Random digits in MNIST's four files; returns (training pictures, test pictures)."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    pictures = {}
    for part, n in (("train", n_train), ("t10k", n_test)):
        pictures[part] = generator.integers(0, 256, (n, 28, 28), np.uint8)
        labels = np.arange(n, dtype=np.uint8) % 10
        for name, array in (("images-idx3", pictures[part]), ("labels-idx1", labels)):
            data = idx_bytes(array)
            path = folder / f"{part}-{name}-ubyte{'.gz' if packed else ''}"
            path.write_bytes(gzip.compress(data) if packed else data)
    return pictures["train"], pictures["t10k"]
