"""Pictures on their way in and out: uploads, masks drawn in the browser, sheets and films."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from PIL import Image

from dioscuri.data.image_files import Refused, decode
from dioscuri.engine import Array
from dioscuri.errors import UserError
from dioscuri.outputs.media import save_frames
from dioscuri.outputs.pictures import Captions, enlarge, grid, in_rows, sheet

EDITOR_SIDE = 384
PAINTED = 64
"""A pixel is in the mask if its paint, averaged over the pixel, is at least so opaque, of 255."""


def read_upload(content: bytes | None, shape: tuple[int, ...]) -> Array:
    """The square in the middle of an upload as uint8 (H, W, C); a `UserError` if it is no picture."""
    if not content:
        raise UserError("upload a picture first")
    try:
        return decode(BytesIO(content), shape[0], shape[2], crop=True)
    except Refused as error:
        raise UserError(f"the picture cannot be used: {error}") from error


def canvas(picture: Array) -> Array:
    """The picture enlarged for drawing on it, uint8 (side, side, 3)."""
    factor = max(1, round(EDITOR_SIDE / len(picture)))
    colours = np.broadcast_to(picture, (*picture.shape[:2], 3))
    return colours.repeat(factor, 0).repeat(factor, 1)


def read_mask(drawn: Mapping[str, Any] | None, shape: tuple[int, ...]) -> Array:
    """bool (H, W) for pictures (H, W, C), True where the layers of an image editor, uint8 (h, w, 4), are
    painted."""
    H, W, _ = shape
    mask = np.zeros((H, W), bool)
    for layer in (drawn or {}).get("layers") or ():
        alpha = Image.fromarray(np.asarray(layer)[..., 3])
        mask |= np.asarray(alpha.resize((W, H), Image.Resampling.BOX)) >= PAINTED
    if not mask.any():
        raise UserError("draw on the picture where it is to be filled")
    return mask


def resized(picture: Array, side: int) -> Array:
    """The picture (H, W, C) as (side, side, C)."""
    channels = [
        np.asarray(Image.fromarray(picture[..., c]).resize((side, side), Image.Resampling.BILINEAR))
        for c in range(picture.shape[2])
    ]
    return np.stack(channels, -1)


def shown(pictures: Array | Sequence[Array], captions: Captions = ()) -> Array:
    """A sheet of pictures (N, H, W, C), or of rows of them, as uint8 (height, width, 3)."""
    rows = in_rows(pictures) if isinstance(pictures, np.ndarray) else pictures
    whole = sheet(rows, captions)
    return np.broadcast_to(whole, (*whole.shape[:2], 3))


def save_steps(folder: Path, steps: Array) -> Path:
    """Write the film of pictures (N, T, H, W, C), a frame a step, as a GIF with a new name."""
    sheets = [enlarge(grid(in_rows(steps[:, t]))) for t in range(steps.shape[1])]
    return save_frames(folder / f"steps-{uuid4().hex}.gif", sheets)


def difference(a: Array, b: Array) -> tuple[Array, int]:
    """How pictures differ, uint8 with the largest difference white, and that difference."""
    apart = abs(a.astype(int) - b)
    largest = int(apart.max())
    return (apart * 255 // max(largest, 1)).astype(np.uint8), largest
