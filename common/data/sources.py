"""Every data source by its name: which function opens a split of it."""

from collections.abc import Callable
from functools import cached_property

from common.data.arrays import open_imagenet, open_npy
from common.data.cifar10 import open_cifar10
from common.data.descriptors import describe
from common.data.embedded import open_digits, open_photos
from common.data.folders import open_folder
from common.data.mnist import open_mnist, open_mnist10k
from common.data.options import Options, Split, check_options
from common.data.picture_set import PictureSet

OPENERS: dict[str, Callable[[Options, Split], PictureSet]] = {
    "digits": open_digits,
    "photos": open_photos,
    "binarized_mnist": open_mnist,
    "mnist10k": open_mnist10k,
    "mnist_grey": open_mnist,
    "mnist10k_grey": open_mnist10k,
    "cifar-10": open_cifar10,
    "imagenet": open_imagenet,
    "celebA": open_folder,
    "celebAHQ": open_folder,
    "ffhq": open_folder,
    "custom": open_folder,
    "npy": open_npy,
}
"""The same names as in `descriptors.DESCRIPTORS`."""


class DataSets:
    """The three splits of a source, each opened on first use; a `UserError` says why one cannot be."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._open = OPENERS[options.data.dataset_source]

    @cached_property
    def train(self) -> PictureSet:
        return self._open(self._options, "train")

    @cached_property
    def validation(self) -> PictureSet:
        return self._open(self._options, "validation")

    @cached_property
    def test(self) -> PictureSet:
        return self._open(self._options, "test")


def open_datasets(options: Options) -> DataSets:
    """Return the splits of `data.dataset_source`, which must fit `data.target_res` and `data.channels`
    (`UserError`).
    """
    check_options(options.data, describe(options.data.dataset_source))
    return DataSets(options)
