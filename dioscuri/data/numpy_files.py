"""Untrusted numpy files: `.npy` files and members of `.npz` archives, memory-mapped unless compressed, and
checked before memory is allocated. Damage is named even where numpy would accept it."""

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import IO

import numpy as np

from dioscuri.files import check_plain

Array = np.ndarray

_LOCAL_HEADER = 30  # bytes of a zip member's header before its name and extra field
_CHUNK = 1 << 20
_FREE_BYTES = 1 << 26
_MAX_RATIO = 200
"""Above `_FREE_BYTES`, a member may unpack to this many times its size:
pictures need less, zip bombs more."""


class Damaged(Exception):
    """A file is damaged or not a numpy file; the text says why."""


def read_npy(path: Path) -> Array:
    """A `.npy` file, memory-mapped; raises `Damaged`."""
    with _named():
        check_plain(path)
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(array, np.ndarray):
            array.close()
            raise Damaged("it is an .npz archive")
        return array


def member_names(path: Path) -> list[str]:
    """Names of the arrays of an `.npz` file; raises `Damaged`."""
    with _named(), zipfile.ZipFile(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]


def read_member(path: Path, name: str) -> Array:
    """An array of an `.npz` file, its checksum verified: read if it is compressed, else memory-mapped.

    Raises KeyError if no array has the name, and `Damaged`.
    """
    with _named(), zipfile.ZipFile(path) as archive:
        member = archive.getinfo(f"{name}.npy")
        with archive.open(member) as stream:
            shape, fortran_order, dtype = _read_header(stream)
            length = prod(shape) * dtype.itemsize
            if stream.tell() + length != member.file_size:
                raise Damaged(f"'{name}' of {dtype} {shape} does not fill its {member.file_size} bytes")
            if member.compress_type != zipfile.ZIP_STORED:
                return _unpacked(stream, member, shape, fortran_order, dtype)
            start = stream.tell()
            while stream.read(_CHUNK):  # at its end zipfile verifies the checksum
                pass
    if not prod(shape):
        return np.empty(shape, dtype)  # nothing to map
    offset = _data_offset(path, member) + start
    with _named():
        mapped: Array = np.memmap(
            path, dtype, mode="r", offset=offset, shape=shape, order="F" if fortran_order else "C"
        )
    return mapped


def _unpacked(
    stream: IO[bytes], member: zipfile.ZipInfo, shape: tuple[int, ...], fortran_order: bool, dtype: np.dtype
) -> Array:
    if member.file_size > max(_FREE_BYTES, _MAX_RATIO * member.compress_size):
        raise Damaged(f"{member.compress_size} bytes unpack to {member.file_size}, as no real data do")
    content = stream.read()
    flat = np.frombuffer(content, dtype)
    return flat.reshape(shape, order="F" if fortran_order else "C")


def _read_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(stream)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise Damaged(f"numpy format {version} is not known")
    shape, fortran_order, dtype = readers[version](stream)
    if dtype.hasobject:
        raise Damaged("it holds Python objects, which are never read")
    if any(side < 0 for side in shape):
        raise Damaged(f"its shape is {shape}")
    return shape, fortran_order, dtype


def _data_offset(path: Path, member: zipfile.ZipInfo) -> int:
    """Where a member's bytes begin in the file."""
    with path.open("rb") as stream:
        stream.seek(member.header_offset)
        header = stream.read(_LOCAL_HEADER)
    name_length, extra_length = (int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
    return member.header_offset + _LOCAL_HEADER + name_length + extra_length


@contextmanager
def _named() -> Iterator[None]:
    try:
        yield
    except (Damaged, KeyError):
        raise
    except Exception as error:  # zipfile, zlib and numpy raise all kinds of exceptions on foreign bytes
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise Damaged("it is none" if "pickled (object) data" in reason else reason) from error
