"""Atomic writes: a file is written under a temporary name, then renamed."""

import errno
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from stat import S_ISREG
from typing import Any

from dioscuri.errors import UserError, kind_of, shorten

_SEAL = "sha256"
_TEMPORARY = re.compile(r"\.(?P<name>.+)\.(?P<process>\d{1,9})(-\w+)?\.dioscuri-partial", re.DOTALL)
_ABANDONED = 3600
"""Seconds without a change after which a temporary file belongs to no process of any machine."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path to write to, renamed to `path` at the end of the block.

    Creates the folder, and removes what killed processes left in it. A `UserError` says why the file could
    not be written; an existing `path` is then unchanged, and folders that did not exist are gone.
    """
    temporary, missing = _temporary(path), missing_parents(path)
    try:
        _check_no_device(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        _tidy_once(path.parent.absolute())
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {write_failure(error)}") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        remove_empty(missing)


@contextmanager
def replacing_folder(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A temporary folder to write to, which takes the place of `path` at the end of the block: of an empty
    folder or, with `overwrite`, of any; for the rest see `replacing`."""
    temporary, missing = _temporary(path), missing_parents(path)
    aside = temporary.with_name(f"{temporary.name}.old")
    try:
        _tidy(path.parent)
        _check_replaceable(path, overwrite=overwrite)
        temporary.mkdir(parents=True)
        yield temporary
        _check_replaceable(path, overwrite=overwrite)
        if path.exists() and any(path.iterdir()):
            path.replace(aside)
        try:
            temporary.replace(path)
        except OSError:
            if aside.exists() and not path.exists():
                aside.replace(path)
            raise
        finally:
            if path.exists():  # this folder or that of another thread
                shutil.rmtree(aside, ignore_errors=True)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {write_failure(error)}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        remove_empty(missing)


def check_writable(path: Path) -> None:
    """Raise a `UserError` if no file can be written there, before the work whose result is to go there.
    Nothing is left behind."""
    temporary, missing = _temporary(path), missing_parents(path)
    try:
        _check_no_device(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    except OSError as error:
        raise UserError(f"{path} cannot be written: {write_failure(error)}") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        remove_empty(missing)


def missing_parents(path: Path) -> list[Path]:
    """The folders above a path that do not exist, the innermost first."""
    return [folder for folder in path.parents if not os.path.lexists(folder)]


def remove_empty(folders: list[Path]) -> None:
    """Remove the folders that hold nothing."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def _temporary(path: Path) -> Path:
    """A temporary name of a file or folder, another one for every call: threads may write the same file."""
    if path.name in ("", ".."):
        raise UserError(f"{path} cannot be written: give it a name")
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.dioscuri-partial")


def _check_replaceable(path: Path, *, overwrite: bool) -> None:
    """Raise an `OSError` if a new folder may not take this place."""
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise NotADirectoryError(errno.ENOTDIR, "it is a link or no folder")
    if not overwrite and path.exists() and any(path.iterdir()):
        raise OSError(errno.ENOTEMPTY, "it is not empty")


@lru_cache(maxsize=4096)  # a folder of many files is listed once
def _tidy_once(folder: Path) -> None:
    """Do what `_tidy` does the first time that this process writes a file there."""
    _tidy(folder)


def _tidy(folder: Path) -> None:
    """Remove files and folders with temporary names that nothing was written to for an hour, and put back
    folders that a killed process had put aside."""
    for path in folder.glob(".*.dioscuri-partial.old"):
        with suppress(OSError):
            _put_back(path)
    oldest = time.time() - _ABANDONED
    for path in folder.glob(".*.dioscuri-partial"):
        with suppress(OSError):
            inside = path.rglob("*") if path.is_dir() else ()
            newest = max(each.lstat().st_mtime for each in (path, *inside))
            if not _TEMPORARY.fullmatch(path.name) or newest > oldest:
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def _put_back(aside: Path) -> None:
    """Give the folder of a process that has ended its place again, or remove it if another one is there."""
    match = _TEMPORARY.fullmatch(aside.stem)
    # Another process may have the number by now, in a container even the same one after every start.
    just_now = aside.stat().st_ctime > time.time() - _ABANDONED
    if match is None or (just_now and _is_running(int(match["process"]))):
        return
    path = aside.with_name(match["name"])
    if path.exists():
        shutil.rmtree(aside)
    else:
        aside.replace(path)


def _is_running(process: int) -> bool:
    if not process:  # to `os.kill` it is this process's group
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _check_no_device(path: Path) -> None:
    """Raise a `UserError` if a device or pipe would be replaced: root may do that to `/dev/null`."""
    # Links there, such as /dev/stdout, may lead to a plain file.
    of_system = path.parent.resolve().parts[:2] in (("/", "dev"), ("/", "proc"))
    if (of_system and path.is_symlink()) or (path.exists() and not (path.is_file() or path.is_dir())):
        raise UserError(f"{path} cannot be written: it is a device or a pipe; name a file")


def write_failure(error: OSError) -> str:
    """Why a file could not be written. For a short write numpy reports item counts but no cause."""
    short = error.errno is None and "requested and" in str(error)
    return "no space left on the disk, or a quota is reached" if short else error.strerror or str(error)


def read_path(given: Any, what: str) -> Path:
    """A path, where `~` is the home folder. Nothing need lie there. `what` begins a `UserError`'s message."""
    if not isinstance(given, Path | str):
        raise UserError(f"{what}, not {kind_of(given)}")
    if not str(given):
        raise UserError(f"{what}, not an empty text")
    try:
        path = Path(given).expanduser()
        with suppress(FileNotFoundError, NotADirectoryError):
            path.stat()
    except (OSError, RuntimeError, ValueError) as error:  # too long, a null character, no such user
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{what}, but {shorten(repr(given))} cannot be used: {reason}") from error
    return path


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically. Numbers that are not finite, which JSON lacks, become null."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(finite(value), indent=1, allow_nan=False) + "\n")


def finite(value: Any) -> Any:
    """A value for JSON, with None for numbers that are not finite."""
    if isinstance(value, Mapping):
        return {name: finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def check_plain(path: Path) -> None:
    """Raise an `OSError` unless this is a regular file: reading a pipe or a device may never end."""
    if not S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "it is no plain file", str(path))


def plain_bytes(path: Path) -> bytes:
    """The content of a regular file; an `OSError` if it is not one or cannot be read."""
    check_plain(path)
    return path.read_bytes()


def read_json(path: Path, what: str) -> Any:
    """Read a JSON file. If it is missing or damaged, a `UserError` refers to it as `what`."""
    try:
        return json.loads(plain_bytes(path))
    except FileNotFoundError as error:
        raise UserError(f"{what}: {path} does not exist") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{what}: {path} is damaged ({error}): write it again") from error


def write_sealed_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write an object with the checksum of its content under `sha256`."""
    write_json(path, sealed(value))


def sealed(value: Mapping[str, Any]) -> dict[str, Any]:
    """An object for JSON with the checksum of its content."""
    return {**value, _SEAL: _checksum(value)}


def read_sealed_json(path: Path, what: str) -> tuple[Any, bool]:
    """The object that `write_sealed_json` wrote, without its checksum, and whether it has one. Raises a
    `UserError` if the checksum does not match."""
    value = read_json(path, what)
    if not isinstance(value, dict) or _SEAL not in value:
        return value, False
    expected = value.pop(_SEAL)
    if expected != _checksum(value):
        raise UserError(f"{what}: {path} does not match its sha256, so it has changed: write it again")
    return value, True


def file_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    check_plain(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _checksum(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(finite(value), sort_keys=True).encode()).hexdigest()
