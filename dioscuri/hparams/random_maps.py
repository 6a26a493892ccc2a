"""Options of the random affine maps of training pictures."""

from dataclasses import dataclass

from dioscuri.hparams.picture_files import EMBEDDED, FILES
from dioscuri.hparams.schema import option

PICTURES = (
    *EMBEDDED,
    *(
        "binarized_mnist",
        "mnist10k",
        "mnist_grey",
        "mnist10k_grey",
        "cifar-10",
        "imagenet",
        "npy",
        "tfrecords",
    ),
    *FILES,
    "frames",
)
"""Sources of pictures or clips."""


@dataclass(frozen=True, kw_only=True)
class RandomMaps:
    """Of `[data]`: how far training pictures are turned, scaled, sheared and shifted."""

    random_rotation: float = option(
        0.0,
        low=0,
        high=180,
        needs=("dataset_source", PICTURES),
        doc="turn each training picture by a random angle up to this many degrees, either way",
    )
    random_scale: float = option(
        0.0,
        low=0,
        high=0.5,
        needs=("dataset_source", PICTURES),
        doc="scale the width and the height of each training picture by random factors, each between "
        "1 - random_scale and 1 + random_scale",
    )
    random_shear: float = option(
        0.0,
        low=0,
        high=60,
        needs=("dataset_source", PICTURES),
        doc="slant each training picture by a random angle up to this many degrees, either way",
    )
    random_translation: float = option(
        0.0,
        low=0,
        high=0.5,
        needs=("dataset_source", PICTURES),
        doc="shift each training picture by a random fraction of its width and its height, up to this one",
    )
