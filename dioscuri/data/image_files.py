"""Single image files: what is accepted, how it is decoded, and why a file is refused.

Accepted are 8-bit grey, palette, RGB, CMYK and YCbCr pictures, with no alpha channel or an opaque one. Real
transparency is refused: dropping it reveals hidden colours, and compositing needs a background that only the
user knows. 16-bit and floating-point pictures are refused because conversion would clip them. The EXIF
orientation is applied; of an animation, the first frame is used.
"""

import io
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, features

from dioscuri.errors import UserError

Array = np.ndarray

SUFFIXES = frozenset(
    [".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".avif"]
)

# Decoders of plain raster formats only: others start external programs (EPS) or fetch more files.
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM", *(["AVIF"] if features.check("avif") else []))
_FOREIGN = {
    "an HEIC picture": rb"....ftyp(hei[cxms]|hev[cxms]|mif1|msf1)",
    "an AVIF picture, which this Pillow cannot read": rb"....ftypavi[fs]",
    "a JPEG XL picture": rb"\xff\x0a|\0\0\0\x0cJXL ",
    "a JPEG 2000 picture": rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51",
    "a Photoshop file": rb"8BPS",
    "a PDF document": rb"%PDF",
    "an SVG drawing": rb"\s*(<\?xml[^>]*>\s*)?<svg",
    "a web page, so its download failed": rb"\s*(<!doctype html|<html|<\?xml)",
}
"""First bytes of other kinds of file that often have a picture's suffix."""
_PLAIN = ("1", "L", "P", "RGB", "CMYK", "YCbCr")
_WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
_MAX_PIXELS = 80_000_000  # more count as a decompression bomb; PIL itself warns above 89 million
_TAIL = 16
_ORIENTATION, _TURNED = 0x0112, (5, 6, 7, 8)  # of EXIF: rows and columns exchanged
_HEAD = 256
_PNG = b"\x89PNG\r\n\x1a\n"
_TEXT = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
_SMALL_TEXT = 1000  # compressed bytes; they unpack to at most a megabyte
_END = {"PNG": b"IEND\xae\x42\x60\x82", "JPEG": b"\xff\xd9"}


class Refused(Exception):
    """A file cannot be used; the message says why."""


def decode(
    source: Path | BinaryIO, resolution: int, channels: int, *, crop: bool = False, fast: bool = False
) -> Array:
    """Return the picture as uint8 (resolution, resolution, channels); `channels` is 1 or 3.

    Converts to grey or RGB, then resizes with PIL's bilinear filter: with `crop` the largest central square,
    else the whole picture, whatever its aspect ratio. `fast`: a JPEG is decoded at a half, a quarter or an
    eighth if that is at least twice as large, with a slightly different result. Raises `Refused`.
    """
    with open_image(source) as image:
        if fast:
            image.draft(None, (2 * resolution, 2 * resolution))
        picture = as_mode(flatten(image), channels)
        if crop:
            width, height = picture.size
            side = min(width, height)
            left, top = (width - side) // 2, (height - side) // 2
            picture = picture.crop((left, top, left + side, top + side))
        picture = picture.resize((resolution, resolution), Image.Resampling.BILINEAR)
        return np.asarray(picture).reshape(resolution, resolution, channels)


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height of an opened picture in its EXIF orientation."""
    width, height = image.size
    return (height, width) if image.getexif().get(_ORIENTATION) in _TURNED else (width, height)


def check(path: Path) -> None:
    """Raise `Refused` if the file is not a usable picture.

    A PNG or JPEG that has its end marker is not decoded, so a large folder is checked in seconds. Damage in
    the middle of a file shows when it is read.
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
    """Open an image file of an accepted kind; whatever its decoder raises in the block becomes `Refused`."""
    try:
        with _stream(source) as file, Image.open(_without_text(file), formats=_FORMATS) as image:
            width, height = image.size
            if width * height > _MAX_PIXELS:
                raise Refused(f"{width}x{height} pixels are more than {_MAX_PIXELS // 10**6} million")
            if image.mode not in _PLAIN + _WITH_ALPHA:
                raise Refused(f"mode {image.mode} is not 8 bits a channel; convert it")
            yield image
    except (Refused, UserError):
        raise
    except Exception as error:  # decoders raise all kinds of exceptions on foreign bytes
        raise _reason(error, source) from error


def _stream(source: Path | BinaryIO) -> AbstractContextManager[BinaryIO]:
    return source.open("rb") if isinstance(source, Path) else nullcontext(source)


def _reason(error: Exception, source: Path | BinaryIO) -> Refused:
    if isinstance(error, Image.UnidentifiedImageError):
        return Refused(_what_it_is(source))
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return Refused(f"more than {_MAX_PIXELS // 10**6} million pixels")
    if isinstance(error, OSError) and error.strerror:
        return Refused(error.strerror)
    return Refused(str(error).partition("\n")[0] or type(error).__name__)


def _what_it_is(source: Path | BinaryIO) -> str:
    with _stream(source) as file:
        file.seek(0)
        head = file.read(_HEAD)
    if not head:
        return "not an image: the file is empty"
    flags = re.DOTALL | re.IGNORECASE
    kind = next((kind for kind, pattern in _FOREIGN.items() if re.match(pattern, head, flags)), "")
    return f"not an image that is read, but {kind}" if kind else "not an image"


def _without_text(file: BinaryIO) -> BinaryIO:
    """A PNG without large texts and colour profiles: Pillow refuses those that unpack to more than a
    megabyte, and the pixels do not need them."""
    start = file.tell()
    chunks = list(_png_chunks(file))
    file.seek(start)
    if sum(size for kind, _, size in chunks if kind in _TEXT) <= _SMALL_TEXT:
        return file
    content = file.read()
    remaining = [content[at - start : at - start + size] for kind, at, size in chunks if kind not in _TEXT]
    return io.BytesIO(_PNG + b"".join(remaining))


def _png_chunks(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Kind, offset and size (with length and checksum) of a PNG's chunks; none for other files."""
    if file.read(len(_PNG)) != _PNG:
        return
    while len(header := file.read(8)) == 8:
        size = int.from_bytes(header[:4], "big") + 12
        yield header[4:], file.tell() - 8, size
        file.seek(size - 8, 1)


def as_mode(image: Image.Image, channels: int) -> Image.Image:
    """The picture in grey or RGB."""
    mode = "L" if channels == 1 else "RGB"
    return image if image.mode == mode else image.convert(mode)


def flatten(image: Image.Image) -> Image.Image:
    """Decode, apply the orientation and drop an opaque alpha channel; `Refused` for real transparency."""
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode in _WITH_ALPHA or "transparency" in image.info:
        rgba = image.convert("RGBA")
        if rgba.getchannel("A").getextrema() != (255, 255):
            raise Refused("has transparent pixels; flatten it onto a background")
        return rgba
    return image


def _ends_with(path: Path, end: bytes) -> bool:
    """Whether the end marker is among the last bytes: some writers pad the file."""
    with path.open("rb") as stream:
        size = stream.seek(0, 2)
        stream.seek(max(size - _TAIL, 0))
        return end in stream.read()


@contextmanager
def naming(option: str, path: Path) -> Iterator[None]:
    """Turn a refusal in the block into a `UserError` that names the option and its file."""
    try:
        yield
    except Refused as error:
        raise UserError(f"{option} {path} cannot be used: {error}") from error


def read_mask(option: str, path: Path, side: int, picture_option: str, picture: Path | None) -> Array:
    """Where a mask is white, bool (h, w). It has `side` x `side` pixels, or the size of the picture file."""
    with naming(option, path), open_image(path) as image:
        grey = np.asarray(flatten(image).convert("L"))
    sizes = {(side, side): None}
    if picture is not None:
        with naming(picture_option, picture), open_image(picture) as image:
            upright = flatten(image)
            sizes[upright.height, upright.width] = None
    if grey.shape not in sizes:
        h, w = grey.shape
        expected = " or ".join(f"{width}x{height}" for height, width in sizes)
        raise UserError(
            f"{option} {path} is {w}x{h} pixels, the pictures are {expected}: give a mask of their size"
        )
    return grey > 127
