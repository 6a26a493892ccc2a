"""Pictures for people: PNG files and grids, enlarged so that they can be seen.

One channel is written as grey, three as RGB. Pictures of any other number of channels are written as `.npy`
files, uint8 (H, W, C), and a grid shows their first channel.
"""

from collections.abc import Sequence
from math import ceil
from pathlib import Path

import numpy as np
from PIL import Image

from dioscuri.engine import Array
from dioscuri.families.latent_models.plan import LatentPlan
from dioscuri.files import replacing
from dioscuri.outputs.drawings import as_pictures

SHEET_SIDE = 960  # pixels that a grid's longer side aims at
GAP = 1  # pixels between pictures, before enlarging
GROUND = 128


def save_picture(folder: Path, stem: str, picture: Array) -> Path:
    """Write one picture, uint8 (H, W, C), as `<folder>/<stem>.png`, or as `.npy`."""
    channels = picture.shape[-1]
    if channels in (1, 3):
        return _save_png(folder / f"{stem}.png", picture)
    path = folder / f"{stem}.npy"
    with replacing(path) as beside, beside.open("wb") as file:
        np.save(file, picture)
    return path


def save_grid(path: Path, rows: Sequence[Array]) -> Path:
    """Write rows of pictures, each uint8 (N, H, W, C), sounds or clips, as one PNG, enlarged by a whole
    factor without smoothing."""
    return _save_png(path, enlarge(grid(rows)))


def visible(batch: Array, plan: LatentPlan) -> Array:
    """Pictures of a batch (B, H, W, C) without padding, as an engine gives its own."""
    crop = plan.crop
    return batch[:, crop : batch.shape[1] - crop, crop : batch.shape[2] - crop] if crop else batch


def grid(rows: Sequence[Array]) -> Array:
    """Lay out rows of pictures, each uint8 (N, H, W, C), sounds or clips, on grey ground: uint8
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


def in_rows(pictures: Array, n_columns: int = 8) -> list[Array]:
    """Cut pictures (N, H, W, C) into rows for a grid."""
    return [pictures[i : i + n_columns] for i in range(0, len(pictures), n_columns)]


def above(originals: Array, others: Array, n_columns: int = 8) -> list[Array]:
    """Rows in turn: originals (N, H, W, C), and the other pictures of them right below."""
    pairs = zip(in_rows(originals, n_columns), in_rows(others, n_columns), strict=True)
    return [row for pair in pairs for row in pair]


def enlarge(picture: Array) -> Array:
    """Repeat pixels by a whole factor so that the longer side comes near `SHEET_SIDE`."""
    factor = max(1, ceil(SHEET_SIDE / (2 * max(picture.shape[:2]))))
    return picture.repeat(factor, 0).repeat(factor, 1)


def _save_png(path: Path, picture: Array) -> Path:
    image = Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture)
    with replacing(path) as beside:
        image.save(beside, format="PNG")
    return path
