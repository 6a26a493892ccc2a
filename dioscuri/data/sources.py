"""Data sources by name: the function that opens a split of each."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property

from dioscuri.data.arrays import open_imagenet, open_npy
from dioscuri.data.caption_cache import CaptionCache, CaptionSource
from dioscuri.data.captioned import with_captions
from dioscuri.data.characters import open_text
from dioscuri.data.cifar10 import open_cifar10
from dioscuri.data.classes import Examples, renumbered
from dioscuri.data.clips import open_frames
from dioscuri.data.descriptors import describe
from dioscuri.data.embedded import open_digits, open_film, open_photos
from dioscuri.data.folders import open_folder, open_glob
from dioscuri.data.listing import class_names
from dioscuri.data.mnist import open_mnist, open_mnist10k
from dioscuri.data.options import PATH_OPTIONS, Options, Split, check_options, data_path
from dioscuri.data.picture_set import PictureSet
from dioscuri.data.sounds import open_sounds
from dioscuri.data.tfrecords import open_tfrecords
from dioscuri.data.tokens import TokenSet, open_tokens
from dioscuri.data.webdataset import open_webdataset
from dioscuri.errors import UserError
from dioscuri.hparams.picture_files import FOLDERS

CLASS_FOLDERS = (*FOLDERS, "glob")
"""Sources whose pictures may lie in class folders."""


def open_token_split(options: Options, split: Split) -> TokenSet:
    """Open the token shards of a split."""
    return open_tokens(data_path(options.data, split))


OPENERS: dict[str, Callable[[Options, Split], Examples]] = {
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
    "webdataset": open_webdataset,
    "tfrecords": open_tfrecords,
    "glob": open_glob,
    "wav": open_sounds,
    "frames": open_frames,
    "film": open_film,
    "tokens": open_token_split,
    "text": open_text,
}
"""The same names as in `descriptors.DESCRIPTORS`."""


class DataSets:
    """The three splits of a source, each opened on first use; a `UserError` says why it cannot be opened.

    `text_device` is the device of PyTorch that encodes captions.
    """

    text_device = "cpu"

    def __init__(
        self, options: Options, classes: Sequence[str] = (), captions: CaptionSource | None = None
    ) -> None:
        self._options, self._classes, self._captions = options, tuple(classes), captions
        self._open = OPENERS[options.data.dataset_source]

    @cached_property
    def train(self) -> Examples:
        return self._split("train")

    @cached_property
    def validation(self) -> Examples:
        return self._split("validation")

    @cached_property
    def test(self) -> Examples:
        return self._split("test")

    def _split(self, split: Split) -> Examples:
        examples, data = self._open(self._options, split), self._options.data
        if data.labels and examples.labels is None:
            raise UserError(
                f"[data] labels is True, but the {split} pictures of '{data.dataset_source}' "
                f"({PATH_OPTIONS[split]}) have none: set it to False, or sort the pictures into one folder "
                "per class"
            )
        where = f"[data] {PATH_OPTIONS[split]}"
        if self._cache is not None and isinstance(examples, PictureSet):
            examples = with_captions(examples, self._cache, where)
        return (
            renumbered(examples, self.class_names or examples.classes, where)
            if examples.classes
            else examples
        )

    @cached_property
    def _cache(self) -> CaptionCache | None:
        """The encoded captions of all splits."""
        captions = self._captions
        return None if captions is None else CaptionCache(replace(captions, device=self.text_device))

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """Class names in the order of their numbers: the run's, else those of the training pictures."""
        if self._classes or self._options.data.dataset_source not in CLASS_FOLDERS:
            return self._classes
        option = PATH_OPTIONS["train"]
        try:
            return class_names(getattr(self._options.data, option), f"[data] {option}")
        except UserError:  # the training pictures are not on this machine
            return ()


def open_datasets(
    options: Options, classes: Sequence[str] = (), captions: CaptionSource | None = None
) -> DataSets:
    """Return the splits of `data.dataset_source`, which must fit `data.target_res` and `data.channels`
    (`UserError`). `classes` are the run's class names in the order of their numbers, if it has them already;
    with `captions`, those of the pictures are encoded.
    """
    check_options(options.data, describe(options.data.dataset_source))
    return DataSets(options, classes, captions)
