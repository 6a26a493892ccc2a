"""A set of pictures, sounds or clips of one size, read by index."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np

from dioscuri.data.annotations import Annotation
from dioscuri.data.texts import Texts

Array = np.ndarray


@dataclass(frozen=True, kw_only=True)
class PictureSet:
    """Pictures uint8 (N, H, W, C), without padding and at full bit depth, read only when `gather` asks for
    them; or sounds (N, samples, C), uint8 or uint16; or clips (N, frames, H, W, C).

    `keys` are stable names, one per picture. `labels` is (N,) or None, `classes` the names of the classes, if
    they have any, `captions` int32 (N, L), token numbers of texts, or None, `texts` the states of encoded
    captions or None. `annotate` reads the pictures' captions and what else is told about them;
    `placed(indices, words)` tells the sizes of pictures and the corners of what is read of them. With
    `binarise_on_read`, the grey levels are probabilities times 255, from which the pipeline samples 0 or 255.
    `draw`, if set, replaces `read` in training and reads at random places chosen by uint64 words (B,).
    `notes` are one-line remarks for the user. `unreadable` holds the indices of pictures that `gather` had to
    replace by the next readable one.
    """

    name: str
    keys: Sequence[str]
    read: Callable[[Array], Array]
    draw: Callable[[Array, Array], Array] | None = None
    labels: Array | None = None
    classes: tuple[str, ...] = ()
    captions: Array | None = None
    texts: Texts | None = None
    placed: Callable[[Array, Array | None], Array] | None = None
    annotate: Callable[[], Sequence[Annotation]] | None = None
    binarise_on_read: bool = False
    notes: tuple[str, ...] = ()
    unreadable: Collection[int] = ()

    def __len__(self) -> int:
        return len(self.keys)

    def gather(self, indices: Sequence[int] | Array, words: Array | None = None) -> Array:
        """Return a new uint8 array (B, H, W, C) of the pictures at `indices` (B,), each in [0, N); with
        `words` (B,), at random places if the set has `draw`.

        Raises IndexError for an index out of range and a `UserError` for a picture that cannot be read.
        """
        requested = np.asarray(indices, dtype=np.int64)
        if requested.size and not (requested.min() >= 0 and requested.max() < len(self)):
            raise IndexError(f"picture index outside 0..{len(self) - 1} of {self.name}")
        return self.read(requested) if words is None or self.draw is None else self.draw(requested, words)

    def shown(self, indices: Array) -> Array:
        """The indices (B,) of the pictures that `gather` gave for these: others where they are unreadable."""
        given = np.asarray(indices, dtype=np.int64)
        while (bad := np.isin(given, list(self.unreadable))).any():
            given = np.where(bad, (given + 1) % len(self), given)
        return given


class NumberedKeys(Sequence[str]):
    """Names `image_<i>`, made on demand, where i is a picture's number in the stored order."""

    def __init__(self, numbers: Array | range) -> None:
        self.numbers = numbers

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> "NumberedKeys": ...

    def __getitem__(self, index: int | slice) -> "str | NumberedKeys":
        if isinstance(index, slice):
            return NumberedKeys(self.numbers[index])
        return f"image_{int(self.numbers[index])}"


def array_set(
    name: str,
    pictures: Array,
    numbers: Array | range,
    labels: Array | None = None,
    binarise_on_read: bool = False,
) -> PictureSet:
    """A picture set of an array (N, H, W, C); picture i has number `numbers[i]` in the stored order."""
    return PictureSet(
        name=name,
        keys=NumberedKeys(numbers),
        read=lambda indices: pictures[indices],
        labels=labels,
        binarise_on_read=binarise_on_read,
    )
