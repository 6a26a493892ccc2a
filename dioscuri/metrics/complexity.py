"""Complexity of pictures: the bits of their files."""

import io

import numpy as np
from PIL import Image

Array = np.ndarray

OPTIONS: dict[str, dict[str, bool | int]] = {"PNG": {"optimize": True}, "WEBP": {"lossless": True}}
"""Options of Pillow's lossless formats."""


def file_bits(picture: Array, kind: str) -> int:
    """Bits of the lossless file, PNG or WEBP, of a picture uint8 (H, W, 1 or 3)."""
    return 8 * len(encoded(picture, kind, **OPTIONS[kind]))


def encoded(picture: Array, kind: str, **options: bool | int) -> bytes:
    """A picture file in memory."""
    file = io.BytesIO()
    Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture).save(file, kind, **options)
    return file.getvalue()
