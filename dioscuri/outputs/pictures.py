"""Pictures for viewing: PNG files and grids, enlarged to a visible size.

One channel is written as grey, three as RGB. Pictures with any other number of channels are written as `.npy`
files, uint8 (H, W, C), and a grid shows their first channel.
"""

from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dioscuri.engine import Array
from dioscuri.files import replacing
from dioscuri.outputs.drawings import as_pictures

SHEET_SIDE = 960  # target for a grid's longer side, in pixels
GAP = 1  # pixels between pictures, before enlarging
GROUND, INK = 128, 255
TEXT_HEIGHT = 16  # pixels of a line of captions

Captions = Sequence[Sequence[str]]
ORIGINALS: Captions = (("originals",), ("reconstructions",))
"""Captions of the rows of `above`."""


def save_picture(folder: Path, stem: str, picture: Array) -> Path:
    """Write one picture, uint8 (H, W, C), as `<folder>/<stem>.png`, or as `.npy`."""
    channels = picture.shape[-1]
    if channels in (1, 3):
        return save_png(folder / f"{stem}.png", picture)
    path = folder / f"{stem}.npy"
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, picture)
    return path


def save_grid(path: Path, rows: Sequence[Array], captions: Captions = ()) -> Path:
    """Write a `sheet` as PNG."""
    return save_png(path, sheet(rows, captions))


def sheet(rows: Sequence[Array], captions: Captions = ()) -> Array:
    """Rows of pictures, each uint8 (N, H, W, C), sounds or clips, as one uint8 (height, width, 1 or 3),
    enlarged by an integer factor without smoothing.

    `captions` holds, for each row, short texts to write above its first pictures; it may be shorter than
    `rows`.
    """
    whole = grid(rows)
    factor = _factor(whole)
    if not any(captions):
        return _repeated(whole, factor)
    n_rows, width = len(rows), whole.shape[1]
    height, cell = (whole.shape[0] - GAP) // n_rows, (width - GAP) // max(map(len, rows))
    parts = []
    for index in range(n_rows):
        texts = captions[index] if index < len(captions) else ()
        if texts:
            parts.append(_strip(texts, width * factor, cell * factor, whole.shape[2]))
        # The last row includes the gap below it.
        end = None if index == n_rows - 1 else (index + 1) * height
        parts.append(_repeated(whole[index * height : end], factor))
    return np.concatenate(parts)


class Padded(Protocol):
    """A plan with `crop`, the pixels of padding on each side of a picture."""

    @property
    def crop(self) -> int: ...


def visible(batch: Array, plan: Padded) -> Array:
    """Pictures of a batch (B, H, W, C) without padding, like those that an engine returns."""
    crop = plan.crop
    return batch[:, crop : batch.shape[1] - crop, crop : batch.shape[2] - crop] if crop else batch


def grid(rows: Sequence[Array]) -> Array:
    """Lay out rows of pictures, each uint8 (N, H, W, C), sounds or clips, on a grey background: uint8
    (height, width, 1 or 3)."""
    rows = [as_pictures(row) for row in rows]
    rows = [row if row.shape[-1] == 3 else row[..., :1] for row in rows]
    _, H, W, C = rows[0].shape
    n_columns = max(len(row) for row in rows)
    sheet = np.full((len(rows) * (H + GAP) + GAP, n_columns * (W + GAP) + GAP, C), GROUND, np.uint8)
    for i, row in enumerate(rows):
        for j, picture in enumerate(row):
            top, left = GAP + i * (H + GAP), GAP + j * (W + GAP)
            sheet[top : top + H, left : left + W] = picture
    return sheet


def in_rows(pictures: Array, n_columns: int | None = None) -> list[Array]:
    """Split pictures (N, H, W, C), sounds or clips, into rows of a grid with `n_columns`, by
    default as square as possible."""
    size = n_columns or _columns(len(pictures), pictures)
    return [pictures[i : i + size] for i in range(0, len(pictures), size)]


def above(originals: Array, others: Array, n_columns: int | None = None) -> list[Array]:
    """Alternating rows: originals (N, H, W, C), and below them their counterparts."""
    return stacked([originals, others], n_columns)


def stacked(sets: Sequence[Array], n_columns: int | None = None) -> list[Array]:
    """Rows of several sets interleaved: the first row of every set, then the
    second of every set, and so on."""
    size = n_columns or _columns(len(sets[0]), sets[0], n_sets=len(sets))
    groups = zip(*(in_rows(pictures, size) for pictures in sets), strict=True)
    return [row for group in groups for row in group]


def by_class(pictures: Array, labels: Array) -> tuple[list[Array], list[list[str]]]:
    """Rows and captions of a sheet with the pictures grouped by class, in order of first appearance."""
    classes = list(dict.fromkeys(np.asarray(labels).tolist()))
    groups = [pictures[np.asarray(labels) == label] for label in classes]
    most = max(map(len, groups))
    if most == 1:
        rows = in_rows(np.concatenate(groups))
        texts = iter(classes)
        return rows, [[f"{next(texts)}" for _ in row] for row in rows]
    size = _columns(most, pictures, n_sets=len(classes))
    rows, captions = [], []
    for label, group in zip(classes, groups, strict=True):
        of_class = in_rows(group, size)
        rows += of_class
        captions += [[f"class {label}"], *[[] for _ in of_class[1:]]]
    return rows, captions


def sample_rows(pictures: Array, labels: Array | None) -> tuple[list[Array], Captions]:
    """Rows and captions of a sheet of samples: a class a row or more, where they have classes (N,)."""
    return (in_rows(pictures), ()) if labels is None else by_class(pictures, labels)


def enlarge(picture: Array) -> Array:
    """Repeat pixels by an integer factor so that the longer side is close to `SHEET_SIDE`."""
    return _repeated(picture, _factor(picture))


def _factor(picture: Array) -> int:
    longer: int = max(picture.shape[:2])
    return max(1, ceil(SHEET_SIDE / (2 * longer)))


def _repeated(picture: Array, factor: int) -> Array:
    return picture.repeat(factor, 0).repeat(factor, 1)


def _columns(n: int, examples: Array, n_sets: int = 1) -> int:
    """Columns of the squarest grid of n pictures from each of `n_sets` sets with interleaved rows; among
    equally square grids, the one with the fewest empty cells."""
    _, H, W, _ = as_pictures(examples[:1]).shape

    def longer_side(size: int) -> tuple[int, int]:
        n_rows = ceil(n / size)
        return max(n_sets * n_rows * (H + GAP), size * (W + GAP)), n_rows * size - n

    best: int = min(range(1, n + 1), key=longer_side)
    return best


def _strip(texts: Sequence[str], width: int, cell: int, channels: int) -> Array:
    """uint8 (TEXT_HEIGHT, width, channels): texts above the cells; the last may extend to the right edge."""
    strip = Image.new("L", (width, TEXT_HEIGHT), GROUND)
    pen = ImageDraw.Draw(strip)
    font = ImageFont.load_default(TEXT_HEIGHT - 4)
    for column, text in enumerate(texts):
        pen.text((column * cell + 2, 0), text, fill=INK, font=font)
    return np.asarray(strip)[..., None].repeat(channels, 2)


def save_png(path: Path, picture: Array) -> Path:
    """Write uint8 (height, width, 1 or 3)."""
    image = Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture)
    with replacing(path) as temporary:
        image.save(temporary, format="PNG")
    return path
