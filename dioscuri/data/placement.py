"""Which square of a picture is read: the whole picture, the central square, or a random one.

For a random square, the shorter side is resized to that of the square (bilinear), and a word of the training
stream chooses the corner; evaluation takes the central one. So it is in open-muse, whose models are told the
corner (SDXL, Podell et al. 2023, section 2.2).
"""

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from PIL import Image

from dioscuri.data.image_files import Refused, as_mode, flatten, open_image, upright_size
from dioscuri.errors import UserError

Array = np.ndarray
Size = tuple[int, int]
"""Width and height, as Pillow has them."""
How = Literal["whole", "centre", "random"]
Source = Path | BinaryIO

_HALF = 32


def decode_square(source: Source, side: int, channels: int, word: int | None, *, fast: bool = False) -> Array:
    """A square of an image file as uint8 (side, side, channels), at the corner that `word` chooses, or
    central; see `image_files.decode` for the rest."""
    with open_image(source) as image:
        size = resized(upright_size(image), side)
        if fast:
            image.draft(None, (2 * side, 2 * side))
        top, left = corner(size, side, word)
        picture = as_mode(flatten(image), channels)
        width, height = picture.size
        x, y = width / size[0], height / size[1]
        # Only the square is resized: the whole of a long, thin picture would be huge.
        box = (left * x, top * y, min(width, (left + side) * x), min(height, (top + side) * y))
        square = picture.resize((side, side), Image.Resampling.BILINEAR, box)
        return np.asarray(square).reshape(side, side, channels)


def resized(size: Size, side: int) -> Size:
    """A picture's size when its shorter side is resized to `side`, as torchvision's `Resize` rounds it."""
    shorter, longer = min(size), max(size)
    long = max(side, side * longer // shorter)
    return (side, long) if size[0] <= size[1] else (long, side)


def corner(size: Size, side: int, word: int | None) -> tuple[int, int]:
    """(top, left) of a square in a resized picture: at random by a word of 64 bits, or central."""
    left, top = (length - side for length in size)
    if word is None:
        return top // 2, left // 2
    return (word >> _HALF) % (top + 1), (word & (1 << _HALF) - 1) % (left + 1)


class Placement:
    """Where the squares lie that are read of pictures, whose headers are read when first needed.

    `open_source(index)` gives the image file, `names` are for messages.
    """

    def __init__(self, names: list[str], open_source: Callable[[int], Source], side: int, how: How) -> None:
        self.names, self.open_source, self.side, self.how = names, open_source, side, how
        self._sizes = np.zeros((len(names), 2), np.int32)

    def __call__(self, indices: Array, words: Array | None = None) -> Array:
        """Width and height of the stored pictures at `indices` (B,), and top and left of the square after
        resizing, int64 (B, 4); random `words` (B,) choose the corner."""
        given: list[int | None] = [None] * len(indices)
        if words is not None and self.how == "random":
            given = words.tolist()
        rows = [
            (*self.size(i), *self._corner(i, word)) for i, word in zip(indices.tolist(), given, strict=True)
        ]
        return np.array(rows, np.int64).reshape(-1, 4)

    def size(self, index: int) -> Size:
        """Width and height of a stored picture; a `UserError` if it is not one."""
        if not self._sizes[index, 0]:
            try:
                with open_image(self.open_source(index)) as image:
                    self._sizes[index] = upright_size(image)
            except Refused as refused:
                raise UserError(f"{self.names[index]}: {refused}; repair or remove it") from refused
        width, height = self._sizes[index].tolist()
        return width, height

    def _corner(self, index: int, word: int | None) -> tuple[int, int]:
        if self.how == "whole":
            return 0, 0
        return corner(resized(self.size(index), self.side), self.side, word)
