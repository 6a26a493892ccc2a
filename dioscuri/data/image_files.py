"""Single image files: what is accepted, how it is decoded, and why a file is refused.

Accepted are 8-bit grey, palette, RGB, CMYK and YCbCr pictures, and pictures whose alpha channel is opaque
everywhere. Real transparency is refused, because dropping it shows colours that were hidden and compositing
needs a background that only the user knows; so are 16-bit and floating-point pictures, which a conversion
would clip. The EXIF orientation is applied; of an animation the first frame is taken.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

from dioscuri.errors import UserError

Array = np.ndarray

SUFFIXES = frozenset([".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"])

# Only decoders of plain raster formats: others start external programs (EPS) or fetch further files.
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
_PLAIN = ("1", "L", "P", "RGB", "CMYK", "YCbCr")
_WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
_MAX_PIXELS = 80_000_000  # more are taken for a decompression bomb; PIL itself warns from 89 million
_TAIL = 16
_END = {"PNG": b"IEND\xae\x42\x60\x82", "JPEG": b"\xff\xd9"}


class Refused(Exception):
    """A file cannot be used; the message says why."""


def decode(source: Path | BinaryIO, resolution: int, channels: int, *, crop: bool = False) -> Array:
    """Return the picture as uint8 (resolution, resolution, channels); `channels` is 1 or 3.

    Converts to grey or RGB, then resizes with PIL's bilinear filter: with `crop` the largest square in the
    middle, else all, whose aspect ratio is not kept. Raises `Refused`.
    """
    with open_image(source) as image:
        picture = flatten(image).convert("L" if channels == 1 else "RGB")
        if crop:
            width, height = picture.size
            side = min(width, height)
            left, top = (width - side) // 2, (height - side) // 2
            picture = picture.crop((left, top, left + side, top + side))
        picture = picture.resize((resolution, resolution), Image.Resampling.BILINEAR)
        return np.asarray(picture).reshape(resolution, resolution, channels)


def check(path: Path) -> None:
    """Raise `Refused` if the file is no usable picture.

    A PNG or JPEG that is complete to its end marker is not decoded, so that a large folder is checked in
    seconds. Damage in its middle shows when it is read.
    """
    with open_image(path) as image:
        end = _END.get(image.format or "")
        if (
            end is None
            or image.mode in _WITH_ALPHA
            or "transparency" in image.info
            or not _ends_with(path, end)
        ):
            flatten(image)


@contextmanager
def open_image(source: Path | BinaryIO) -> Iterator[Image.Image]:
    """Open an image file of an accepted kind; what its decoder raises inside the block becomes `Refused`."""
    try:
        with Image.open(source, formats=_FORMATS) as image:
            width, height = image.size
            if width * height > _MAX_PIXELS:
                raise Refused(f"{width}x{height} pixels are more than {_MAX_PIXELS // 10**6} million")
            if image.mode not in _PLAIN + _WITH_ALPHA:
                raise Refused(f"mode {image.mode} is not 8 bits a channel; convert it")
            yield image
    except (Refused, UserError):
        raise
    except Exception as error:  # decoders answer foreign bytes with exceptions of every kind
        raise _reason(error) from error


def _reason(error: Exception) -> Refused:
    if isinstance(error, Image.UnidentifiedImageError):
        return Refused("not an image")
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return Refused(f"more than {_MAX_PIXELS // 10**6} million pixels")
    return Refused(str(error).partition("\n")[0] or type(error).__name__)


def flatten(image: Image.Image) -> Image.Image:
    """Decode, apply the orientation and drop an opaque alpha channel; `Refused` for real transparency."""
    image.load()
    upright = ImageOps.exif_transpose(image)
    if image.mode in _WITH_ALPHA or "transparency" in image.info:
        rgba = upright.convert("RGBA")
        if rgba.getchannel("A").getextrema() != (255, 255):
            raise Refused("has transparent pixels; flatten it onto a background")
        return rgba
    return upright


def _ends_with(path: Path, end: bytes) -> bool:
    """Whether the end marker is among the last bytes; some writers pad the file."""
    with path.open("rb") as stream:
        size = stream.seek(0, 2)
        stream.seek(max(size - _TAIL, 0))
        return end in stream.read()
