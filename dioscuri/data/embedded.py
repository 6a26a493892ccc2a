"""Pictures that ship inside installed packages: no download.

- `digits`: the 1,797 handwritten digits of scikit-learn, 8x8. Level 16 becomes 15 and levels are stored times
  16, so reduction to 4 bits changes nothing. Picture i is test if i % 6 == 5; of the others, every tenth is
  validation.
- `photos`: crops of the colour photographs inside scikit-image. Only the left picture of the stereo pair is
  used; charts, drawings and pictures with transparency are left out. A photograph is cut into rows of
  `target_res` pixels: row r is validation if r % 8 == 3, test if r % 8 == 7; both are cut into adjacent
  tiles. Training crops lie inside the rows between, half a crop apart, so that no two splits share a pixel.
- `film`: clips of the one film inside scikit-image, 24 frames of 25x14 pixels: all squares of `target_res`
  pixels, one pixel apart, over `frames` consecutive frames. The first 16 frames are for training, where clips
  begin at every frame, the next four for validation, the last four for test. It is a single scene: a test
  score says how well its next frames are modelled, no more.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.resources import as_file, files
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

from dioscuri.data.descriptors import describe
from dioscuri.data.options import Options, Split, picture_shape
from dioscuri.data.picture_set import PictureSet, array_set
from dioscuri.errors import UserError

Array = np.ndarray

PHOTOGRAPHS = (
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "motorcycle_left.png",
    "retina.jpg",
    "rocket.jpg",
)

FILM = "no_time_for_that_tiny.gif"
FILM_FRAMES: dict[Split, tuple[int, int]] = {"train": (0, 16), "validation": (16, 20), "test": (20, 24)}
FILM_LENGTH = 4
"""Frames in the shortest split."""

_PERIOD = 8  # rows of a photograph after which the assignment to splits repeats
_ROW = {"validation": 3, "test": 7}


def open_digits(_options: Options, split: Split) -> PictureSet:
    """Open a split of the embedded digits."""
    pictures, labels = _load_digits()
    numbers = np.arange(len(pictures))
    is_test = numbers % 6 == 5
    rest = numbers[~is_test]
    is_validation = np.arange(len(rest)) % 10 == 9
    chosen = {"train": rest[~is_validation], "validation": rest[is_validation], "test": numbers[is_test]}[
        split
    ]
    return array_set(f"digits {split}", pictures[chosen], chosen, labels[chosen])


@cache
def _load_digits() -> tuple[Array, Array]:
    # Importing scikit-learn takes seconds.
    package = find_spec("sklearn")
    assert package is not None
    assert package.submodule_search_locations is not None
    file = Path(package.submodule_search_locations[0], "datasets", "data", "digits.csv.gz")
    table = np.loadtxt(file, np.uint8, delimiter=",")
    levels = np.minimum(table[:, :-1], 15).reshape(-1, 8, 8, 1)
    return levels * 16, table[:, -1].copy()


def open_photos(options: Options, split: Split) -> PictureSet:
    """Open a split of the crops; a `UserError` if `target_res` is too large for the photographs."""
    side = picture_shape(options.data, describe("photos"))[0]
    crops, keys = [], []
    for name in PHOTOGRAPHS:
        photograph = _load_photograph(name)
        for y, x in crop_corners(photograph.shape[:2], side, split):
            crops.append(photograph[y : y + side, x : x + side])
            keys.append(f"{name.partition('.')[0]}_y{y:04d}_x{x:04d}")
    if not crops:
        raise UserError(
            f"[data] target_res {side} is too large for the photographs of 'photos': give at most 176"
        )
    pictures = np.stack(crops)
    return PictureSet(name=f"photos {split}", keys=tuple(keys), read=lambda indices: pictures[indices])


def crop_corners(size: tuple[int, int], side: int, split: Split) -> list[tuple[int, int]]:
    """(y, x) of the upper left corners of a split's crops from a photograph of `size` (height, width)."""
    n_rows, n_columns = size[0] // side, size[1] // side
    if not n_columns:
        return []
    if split != "train":
        rows = range(_ROW[split], n_rows, _PERIOD)
        return [(row * side, column * side) for row in rows for column in range(n_columns)]
    step = max(side // 2, 1)
    corners = []
    for first in range(0, n_rows, _PERIOD // 2):
        last = min(first + _PERIOD // 2 - 1, n_rows)
        ys = range(first * side, (last - 1) * side + 1, step)
        corners += [(y, x) for y in ys for x in range(0, (n_columns - 1) * side + 1, step)]
    return corners


def open_film(options: Options, split: Split) -> PictureSet:
    """Open a split of the clips; a `UserError` if `target_res` or `frames` is too large for the film."""
    side, length = options.data.target_res, options.data.frames
    film = _load_film()
    first, last = FILM_FRAMES[split]
    _, height, width, _ = film.shape
    if side > width or length > FILM_LENGTH:
        raise UserError(
            f"[data] target_res {side} and frames {length} are too large for 'film': at most {width} and "
            f"{FILM_LENGTH}"
        )
    corners = [
        (t, y, x)
        for t in range(first, last - length + 1)
        for y in range(height - side + 1)
        for x in range(width - side + 1)
    ]
    t, y, x = (axis[:, None, None, None] for axis in np.array(corners).T)
    steps, places = np.arange(length)[:, None, None], np.arange(side)

    def read(indices: Array) -> Array:
        clips: Array = film[t[indices] + steps, y[indices] + places[:, None], x[indices] + places]
        return clips

    keys = tuple(f"film_t{t:02d}_y{y:02d}_x{x:02d}" for t, y, x in corners)
    return PictureSet(name=f"film {split}", keys=keys, read=read)


@cache
def _load_film() -> Array:
    """uint8 (T, H, W, 3)."""
    with _embedded(FILM) as path, Image.open(path) as film:
        frames = []
        for index in range(getattr(film, "n_frames", 1)):
            film.seek(index)
            frames.append(np.asarray(film.convert("RGB")))
        return np.stack(frames)


def _load_photograph(name: str) -> Array:
    """uint8 (H, W, 3)."""
    with _embedded(name) as path, Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


@contextmanager
def _embedded(name: str) -> Iterator[Path]:
    """A file inside scikit-image."""
    with as_file(files("skimage") / "data" / name) as path:
        if not path.is_file():
            raise UserError(f"scikit-image has no {name}; install the version pinned in build/")
        yield path
