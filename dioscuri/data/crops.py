"""Cutting a square out of a picture and resizing it as TensorFlow's `crop_and_resize` does.

Bilinear between the four nearest pixels, with aligned corners and without antialiasing; 0 outside the
picture.
"""

from pathlib import Path
from typing import BinaryIO

import numpy as np

from dioscuri.data.image_files import as_mode, flatten, open_image

Array = np.ndarray
Box = tuple[float, float, float, float]


def decode_cropped(source: Path | BinaryIO, side: int, channels: int, *, legacy: bool = False) -> Array:
    """The central square of an image file as uint8 (side, side, channels), `channels` 1 or 3; `Refused` if it
    is not a picture. `legacy`: the box of DALLE-mtf and Metroplex."""
    with open_image(source) as image:
        picture = np.asarray(as_mode(flatten(image), channels))
    H, W = picture.shape[:2]
    box = legacy_box(H, W) if legacy else centre_box(H, W)
    cropped = crop_and_resize(picture.reshape(H, W, channels), side, box)
    rounded: Array = np.rint(cropped).astype(np.uint8)
    return rounded


def centre_box(H: int, W: int) -> Box:
    """(y1, x1, y2, x2) of the largest central square, as fractions of the height and width."""
    y, x = min(1.0, W / H) / 2, min(1.0, H / W) / 2
    return 0.5 - y, 0.5 - x, 0.5 + y, 0.5 + x


def legacy_box(H: int, W: int) -> Box:
    """The original's box. Its end lacks the offset of its start, so on a picture that is not square it is
    neither square nor central."""
    longer = max(H, W)
    return (1 - W / longer) / 2, (1 - H / longer) / 2, W / longer, H / longer


def crop_and_resize(picture: Array, side: int, box: Box) -> Array:
    """float32 (side, side, C) of a picture (H, W, C); `box`: (y1, x1, y2, x2),
    fractions of H - 1 and W - 1."""
    H, W, _ = picture.shape
    y1, x1, y2, x2 = box
    ys, inside_y = _coordinates(y1, y2, H, side)
    xs, inside_x = _coordinates(x1, x2, W, side)
    top, left = np.floor(ys).astype(int), np.floor(xs).astype(int)
    bottom, right = np.ceil(ys).astype(int), np.ceil(xs).astype(int)
    dy, dx = (ys - top).astype(np.float32)[:, None, None], (xs - left).astype(np.float32)[None, :, None]
    pixels = picture.astype(np.float32)
    upper = pixels[top][:, left] + (pixels[top][:, right] - pixels[top][:, left]) * dx
    lower = pixels[bottom][:, left] + (pixels[bottom][:, right] - pixels[bottom][:, left]) * dx
    resized = upper + (lower - upper) * dy
    return np.where(inside_y[:, None, None] & inside_x[None, :, None], resized, np.float32(0))


def _coordinates(low: float, high: float, size: int, side: int) -> tuple[Array, Array]:
    """Coordinates of the result's rows or columns in a picture with `size` of them, and whether inside it."""
    first, last = np.float32(low) * np.float32(size - 1), np.float32(high) * np.float32(size - 1)
    step = (last - first) / np.float32(max(side - 1, 1))
    begin = first if side > 1 else (first + last) / 2
    where = begin + np.arange(side, dtype=np.float32) * step
    inside = (where >= 0) & (where <= size - 1)
    return np.where(inside, where, np.float32(0)), inside
