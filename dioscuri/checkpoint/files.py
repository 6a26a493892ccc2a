"""Single files of a checkpoint: flushed to disk before anything refers to them, verified when read."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from dioscuri.files import check_plain, plain_bytes

Content = TypeVar("Content")


class Damage(Exception):
    """A checkpoint file is missing, incomplete or changed; the message is short and names the file."""


def tensor_bytes(tensors: Mapping[str, np.ndarray]) -> bytes:
    """A safetensors file of the tensors, without metadata, whose order would vary from run to run.

    Arrays are brought into C order first: the library does not check and would write shuffled elements. 0-d
    arrays stay 0-d, unlike with `np.ascontiguousarray`.
    """
    return safetensors.numpy.save({name: np.asarray(array, order="C") for name, array in tensors.items()})


def write_durably(path: Path, content: bytes) -> dict[str, Any]:
    """Write a new file and wait until it is on disk. Returns its entry: `bytes` and `sha256`."""
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def read_tensors(path: Path, entry: Any) -> dict[str, np.ndarray]:
    """Read a safetensors file into writable arrays; `Damage` if it does not match its entry."""
    if not isinstance(entry, dict) or _read(path, _sha256) != entry.get("sha256"):
        raise Damage(f"{path.name} does not match its sha256")
    try:
        return _read(path, safetensors.numpy.load_file)
    except (SafetensorError, ValueError, KeyError) as error:
        raise Damage(f"{path.name}: {error}") from error


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; raises `Damage`."""
    try:
        value = json.loads(_read(path, plain_bytes))
    except (ValueError, RecursionError) as error:
        raise Damage(f"{path.name}: {error}") from error
    if not isinstance(value, dict):
        raise Damage(f"{path.name} holds no JSON object")
    return value


def _sha256(path: Path) -> str:
    """The hash of a file, which need not fit into memory."""
    check_plain(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(path: Path, read: Callable[[Path], Content]) -> Content:
    try:
        return read(path)
    except FileNotFoundError as error:
        raise Damage(f"{path.name} is missing") from error
    except OSError as error:
        raise Damage(f"{path.name} cannot be read: {error.strerror}") from error
