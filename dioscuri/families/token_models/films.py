"""Films of sampling: what the model predicts in every step, and which tokens are not final yet."""

from collections.abc import Callable, Mapping
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np

from dioscuri.engine import Array
from dioscuri.errors import UserError
from dioscuri.files import check_writable, read_path
from dioscuri.outputs.media import ANIMATED, save_frames
from dioscuri.outputs.pictures import GROUND, enlarge, grid, in_rows

MOST_FRAMES = 32
VEIL = 0.6  # opacity of the grey over tokens that are not final


def frames_of(
    made: Mapping[str, Array], shape: tuple[int, ...], decode: Callable[[Array], Array]
) -> list[Array]:
    """Pictures (B, H, W, C) of some steps, including the first and the last that was taken, of a sampler's
    result with `every_step`. `shape` is that of a picture's tokens, and `decode` makes pictures of tokens
    (B, L). Tokens that are still masked, or will change, are veiled if they lie on a grid."""
    T = int(made["taken"].max())
    return [
        _veiled(decode(made["steps"][:, t]), made["masked"][:, t], shape)
        for t in np.unique(np.linspace(0, T - 1, min(T, MOST_FRAMES)).astype(int))
    ]


def read_film(given: Any) -> Path:
    """The file that a caller names for a film; a `UserError` unless it can be written and its suffix is that
    of a kind."""
    path = read_path(given, f"film must be a file {', '.join(ANIMATED)}")
    if path.suffix not in ANIMATED or str(given).endswith("/"):
        raise UserError(f"film must be a file {', '.join(ANIMATED)}, not '{given}'")
    check_writable(path)
    return path


def save_film(path: Path, frames: list[Array]) -> Path:
    """Write frames, each a sheet of pictures (B, H, W, C), as an animated GIF, PNG or WebP, by the suffix."""
    columns = max(1, round(sqrt(len(frames[0]))))
    return save_frames(path, [enlarge(grid(in_rows(frame, columns))) for frame in frames])


def _veiled(pictures: Array, masked: Array, shape: tuple[int, ...]) -> Array:
    if len(shape) == 1:
        return pictures
    (B, H, W, _), (h, w) = pictures.shape, shape
    areas = masked.reshape(B, h, w).repeat(H // h, 1).repeat(W // w, 2)[..., None]
    veiled = VEIL * GROUND + (1 - VEIL) * pictures
    return np.where(areas, veiled, pictures).astype(np.uint8)
