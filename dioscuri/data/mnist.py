"""MNIST and its subset of 10,000 digits, binarised or grey, from idx files.

Binarised training digits are stored grey and resampled at every read. Validation and test digits are
binarised once, with `BINARISATION_SEED`: level / 255 is the probability of white.

- `binarized_mnist`: the 60,000 training digits are for training. The 10,000 test digits are put in the order
  of scikit-learn's `shuffle(random_state=101)`: the first half is validation, the second half test.
- `mnist10k`: the test file of 1,000 is test. The training digits are put in the same kind of order: the first
  eighteenth (500 of 9,000) is validation, the rest is for training.
- `mnist_grey` and `mnist10k_grey`: the same digits in the same splits, with their grey levels; 28x28, or,
  with `target_res` 14 or 7, the rounded means of squares of 2x2 or 4x4 pixels.
"""

from pathlib import Path

import numpy as np
from einops import reduce

from dioscuri.data.descriptors import describe
from dioscuri.data.idx import find_idx, read_idx
from dioscuri.data.options import Options, Split
from dioscuri.data.picture_set import PictureSet, array_set
from dioscuri.data.randomness import BINARISATION_SEED, binarise, fixed_permutation
from dioscuri.errors import UserError

Array = np.ndarray


def open_mnist(options: Options, split: Split) -> PictureSet:
    """Open a split of the full set in `dataset_path`/mnist."""
    pictures, labels = _read_files(options, "mnist", "train" if split == "train" else "t10k")
    if split == "train":
        return _digits(options, "MNIST", pictures, labels, np.arange(len(pictures)), split)
    order, half = fixed_permutation(len(pictures)), len(pictures) // 2
    chosen = order[:half] if split == "validation" else order[half:]
    return _digits(options, "MNIST", pictures, labels, chosen, split)


def open_mnist10k(options: Options, split: Split) -> PictureSet:
    """Open a split of the subset in `dataset_path`/mnist10k."""
    pictures, labels = _read_files(options, "mnist10k", "t10k" if split == "test" else "train")
    order, held_out = fixed_permutation(len(pictures)), len(pictures) // 18
    indices = {
        "train": order[held_out:],
        "validation": order[:held_out],
        "test": np.arange(len(pictures)),
    }
    return _digits(options, "mnist10k", pictures, labels, indices[split], split)


def _digits(
    options: Options, name: str, pictures: Array, labels: Array | None, chosen: Array, split: Split
) -> PictureSet:
    """The chosen digits in their stored order, binarised unless the source says grey."""
    chosen = np.sort(chosen)
    pictures, labels = pictures[chosen], None if labels is None else labels[chosen]
    side = pictures.shape[1] // options.data.target_res
    if side > 1:
        means = reduce(pictures.astype(np.float32), "n (h a) (w b) c -> n h w c", "mean", a=side, b=side)
        pictures = np.rint(means).astype(np.uint8)
    binary = describe(options.data.dataset_source).likelihood == "bernoulli"
    if binary and split != "train":
        pictures = binarise(pictures, BINARISATION_SEED, split, chosen)
    return array_set(
        f"{name} {split}", pictures, chosen, labels, binarise_on_read=binary and split == "train"
    )


def _read_files(options: Options, folder_name: str, prefix: str) -> tuple[Array, Array | None]:
    """Pictures (N, 28, 28, 1) and, if their file exists, labels (N,); `prefix` is `train` or `t10k`."""
    folder = Path(options.data.dataset_path) / folder_name
    picture_file = find_idx(folder, f"{prefix}-images", "idx3-ubyte")
    if picture_file is None:
        raise UserError(
            f"{folder / (prefix + '-images-idx3-ubyte')}[.gz] is missing; run "
            f"data_scripts/download_and_preprocess.sh {folder_name}, or set data.dataset_path to the folder "
            f"that holds {folder_name}/"
        )
    pictures = read_idx(picture_file)
    if pictures.ndim != 3 or pictures.shape[1:] != (28, 28) or not len(pictures):
        raise UserError(f"{picture_file}: holds {pictures.shape}, not digits of 28x28")
    label_file = find_idx(folder, f"{prefix}-labels", "idx1-ubyte")
    labels = None if label_file is None else read_idx(label_file)
    if labels is not None and labels.shape != pictures.shape[:1]:
        raise UserError(f"{label_file}: holds {labels.shape} labels for {len(pictures)} pictures")
    return pictures[..., None], labels
