"""Untrusted archives: only regular files, no name that leads out of the folder, no
more than the disk can hold."""

import gzip
import lzma
import shutil
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from dioscuri.errors import UserError

_SYMLINK = 0o120000
_TYPE = 0o170000
_FREE_BYTES, _MAX_RATIO = 1 << 26, 200
"""A larger member that is this many times smaller in its archive is a decompression bomb."""
_DAMAGE = (
    *(zipfile.BadZipFile, gzip.BadGzipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError),
    *(NotImplementedError, RuntimeError, ValueError, OverflowError, struct.error),
)


@contextmanager
def reading(archive: Path) -> Iterator[None]:
    """Turn any exception from reading a damaged archive or member into a `UserError`."""
    try:
        yield
    except _DAMAGE as error:
        raise UserError(f"{archive}: damaged ({error}); remove it and download it again") from error


def members(archive: Path) -> Iterator[tuple[PurePosixPath, int, IO[bytes]]]:
    """Yield (name, size, open stream) of every regular file in a zip or tar archive, in its order.

    Raises a `UserError` for an unsafe name, a link, a device or another kind of file. A stream is valid until
    the next one. Read within `reading`.
    """
    if zipfile.is_zipfile(archive):
        yield from _zip_members(archive)
    elif tarfile.is_tarfile(archive):
        yield from _tar_members(archive)
    else:
        raise UserError(f"{archive}: neither a zip nor a tar archive")


def unpack(archive: Path, folder: Path, place: Callable[[PurePosixPath], Path | None]) -> int:
    """Write each member to `folder` / `place(its name)`, or skip it if that is None; return how many.

    Raises a `UserError` if two members have the same place or the disk is too small.
    """
    count = 0
    with reading(archive):
        for name, size, stream in members(archive):
            relative = place(name)
            if relative is not None:
                _write(archive, name, size, stream, folder / relative)
                count += 1
    return count


def _write(archive: Path, name: PurePosixPath, size: int, stream: IO[bytes], target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if size > shutil.disk_usage(target.parent).free:
        raise UserError(f"{archive}: '{name}' needs {size} bytes, more than the disk has free")
    try:
        with target.open("xb") as out:
            shutil.copyfileobj(stream, out, 1 << 20)
    except FileExistsError as error:
        raise UserError(f"{archive}: '{name}' and another member would both become {target.name}") from error


def _zip_members(archive: Path) -> Iterator[tuple[PurePosixPath, int, IO[bytes]]]:
    with zipfile.ZipFile(archive) as opened:
        for info in opened.infolist():
            if info.is_dir():
                continue
            if (info.external_attr >> 16) & _TYPE == _SYMLINK:
                raise UserError(f"{archive}: '{info.filename}' is a link; nothing from here on was unpacked")
            _check_size(archive, info.filename, info.file_size, info.compress_size)
            with opened.open(info) as stream:
                yield safe_name(archive, info.filename), info.file_size, stream


def _tar_members(archive: Path) -> Iterator[tuple[PurePosixPath, int, IO[bytes]]]:
    packed = archive.stat().st_size
    with tarfile.open(archive) as opened:
        for info in opened:
            if info.isdir():
                continue
            _check_size(archive, info.name, info.size, packed)
            stream = opened.extractfile(info) if info.isreg() else None
            if stream is None:
                raise UserError(
                    f"{archive}: '{info.name}' is a link or device; nothing from here on was unpacked"
                )
            with stream:
                yield safe_name(archive, info.name), info.size, stream


def _check_size(archive: Path, name: str, size: int, packed: int) -> None:
    """Raise a `UserError` for a decompression bomb."""
    if size < 0 or size > max(_FREE_BYTES, _MAX_RATIO * packed):
        raise UserError(
            f"{archive}: '{name}' claims to unpack {packed} bytes to {size}; do not trust this archive"
        )


def safe_name(archive: Path, name: str) -> PurePosixPath:
    """The name as a relative path; a `UserError` if it is absolute, leaves the folder or is not portable."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or any(c in name for c in "\\:\0"):
        raise UserError(
            f"{archive}: '{name}' would be written outside the target folder; do not trust this archive"
        )
    return path
