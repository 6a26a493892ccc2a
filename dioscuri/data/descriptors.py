"""Properties of each data source, by the name that `data.dataset_source` gives."""

from dataclasses import dataclass
from typing import Literal

from dioscuri.errors import UserError, did_you_mean


@dataclass(frozen=True, kw_only=True)
class Descriptor:
    """Properties of a source that the model and the pipeline need before any picture is read."""

    likelihood: Literal["mixture_of_logistics", "bernoulli"] = "mixture_of_logistics"
    padding: int = 0  # zero pixels added on each side of a picture, excluded from losses and outputs
    flip: bool = True  # whether mirrored pictures are equally likely; False for digits
    resolution: int = 0  # fixed size before padding; 0: as configured
    averaged: tuple[int, ...] = ()  # sides of the squares of pixels that may be averaged into one
    channels: int = 0  # fixed number of channels; 0: as configured
    labelled: bool = False
    rank: int = 2  # axes of an example: 1 sounds, 2 pictures, 3 clips of frames
    tokens: bool = False  # whether it holds pictures as tokens; target_res remains that of the pictures


_BINARISED = Descriptor(
    likelihood="bernoulli", padding=2, flip=False, resolution=28, channels=1, labelled=True
)
_GREY = Descriptor(flip=False, resolution=28, averaged=(2, 4), channels=1, labelled=True)
_FOLDER = Descriptor()

DESCRIPTORS = {
    "digits": Descriptor(flip=False, resolution=8, channels=1, labelled=True),
    "photos": Descriptor(channels=3),
    "binarized_mnist": _BINARISED,
    "mnist10k": _BINARISED,
    "mnist_grey": _GREY,
    "mnist10k_grey": _GREY,
    "cifar-10": Descriptor(resolution=32, channels=3, labelled=True),
    "imagenet": Descriptor(channels=3),
    "celebA": _FOLDER,
    "celebAHQ": _FOLDER,
    "ffhq": _FOLDER,
    "custom": _FOLDER,
    "npy": Descriptor(),
    "webdataset": Descriptor(labelled=True),
    "tfrecords": Descriptor(),
    "glob": Descriptor(),
    "wav": Descriptor(flip=False, rank=1, channels=1),
    "frames": Descriptor(rank=3),
    "film": Descriptor(rank=3, channels=3),
    "tokens": Descriptor(flip=False, tokens=True),
    "text": Descriptor(flip=False, tokens=True),
}


def describe(name: str) -> Descriptor:
    """Return the descriptor of a source; a `UserError` lists the known names."""
    if name not in DESCRIPTORS:
        raise UserError(
            f"[data] dataset_source '{name}' is unknown{did_you_mean(name, DESCRIPTORS)}; known: "
            + ", ".join(DESCRIPTORS)
        )
    return DESCRIPTORS[name]
