"""idx-ubyte files, the format of MNIST: four magic bytes, big-endian sizes, values; plain or gzip."""

import gzip
import struct
import zlib
from math import prod
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from dioscuri.errors import UserError

Array = np.ndarray

_MAX_VALUES = 2**30


def read_idx(path: Path) -> Array:
    """Read a uint8 array from a plain or gzip idx file; a `UserError` says what is wrong with the file."""
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            return _parse(path, cast(BinaryIO, gzip.GzipFile(fileobj=raw)) if packed else raw)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read ({error}); download the file again") from error


def _parse(path: Path, stream: BinaryIO) -> Array:
    magic = stream.read(4)
    if len(magic) != 4 or magic[:3] != b"\0\0\x08" or not 1 <= magic[3] <= 4:
        raise UserError(f"{path}: not an idx file of unsigned bytes; expected MNIST's original format")
    header = stream.read(4 * magic[3])
    if len(header) != 4 * magic[3]:
        raise UserError(f"{path}: ends inside its header; download the file again")
    shape = struct.unpack(f">{magic[3]}I", header)
    if prod(shape) > _MAX_VALUES:
        raise UserError(f"{path}: its header claims {prod(shape)} values, more than any such data set has")
    # Ask for one byte more than announced: a file that is too long is damaged too.
    values = stream.read(prod(shape) + 1)
    if len(values) != prod(shape):
        raise UserError(
            f"{path}: its values do not fill the shape {shape} of its header; download the file again"
        )
    return np.frombuffer(values, np.uint8).reshape(shape)


def write_idx(path: Path, array: Array) -> None:
    """Write a uint8 array as a gzip idx file; equal arrays give equal bytes."""
    header = b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    with path.open("wb") as raw, gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0) as packed:
        packed.write(header + np.ascontiguousarray(array, np.uint8).tobytes())


def find_idx(folder: Path, stem: str, kind: str) -> Path | None:
    """Find e.g. `train-images` of kind `idx3-ubyte` under its usual names: joined by `-` or `.`, perhaps
    `.gz`."""
    candidates = (folder / f"{stem}{joint}{kind}{ending}" for joint in "-." for ending in ("", ".gz"))
    return next((path for path in candidates if path.is_file()), None)
