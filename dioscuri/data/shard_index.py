"""The index of a folder of shards: its contents, and the names of the folder's files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dioscuri.errors import UserError
from dioscuri.files import file_sha256, read_sealed_json

FORMAT = 2
FORMATS = (1, 2)
INDEX = "index.json"
DTYPES = ("bool", "uint8", "uint16", "uint32", "int32", "int64", "float16", "float32")
AGAIN = "remove the folder and write it again"


def matches(path: Path, digest: str | None) -> bool:
    """Whether a file has the checksum `digest`; True if there is none (format 1)."""
    try:
        return path.is_file() if digest is None else file_sha256(path) == digest
    except OSError:
        return False


def shard_file(folder: Path, name: str, number: int) -> Path:
    """File of an array, or of the `keys`, of a shard."""
    return folder / f"{name}-{number:05d}{'.json' if name == 'keys' else '.npy'}"


def read_index(folder: Path, what: str) -> dict[str, Any]:
    """The checked index; a `UserError` says what is wrong with it. `what` names the set in messages."""
    path = folder / INDEX
    index, has_seal = read_sealed_json(path, what)
    index = {"files": {}, **index} if isinstance(index, dict) else index
    if not _is_index(index):
        raise UserError(f"{what}: {path} is not an index of {what}: {AGAIN}")
    version = index["header"]["format"]
    if version not in FORMATS:
        raise UserError(f"{what} {folder} have format {version!r}, but this version reads {FORMAT}")
    lacking = set(_file_names(index)) - set(index["files"])
    if version > 1 and (lacking or not has_seal):
        raise UserError(f"{what}: {path} lacks checksums: {AGAIN}")
    result: dict[str, Any] = index
    return result


def _file_names(index: Mapping[str, Any]) -> list[str]:
    names = ("keys", *index["header"]["arrays"])
    return [shard_file(Path(), name, number).name for number in range(len(index["shards"])) for name in names]


def _is_index(index: Any) -> bool:
    parts = {"header": dict, "complete": bool, "shards": list, "files": dict}
    if not isinstance(index, dict) or any(not isinstance(index.get(n), kind) for n, kind in parts.items()):
        return False
    header = index["header"]
    numbers = ("format", "n_examples", "shard_size")
    arrays = header.get("arrays")
    return (
        all(_whole(header.get(name)) for name in numbers)
        and all(_is_file_name(name) and isinstance(sha, str) for name, sha in index["files"].items())
        and all(_positive(size) for size in index["shards"])
        and isinstance(arrays, dict)
        and bool(arrays)
        and all(_is_file_name(name) and _is_spec(spec) for name, spec in arrays.items())
    )


def _is_spec(spec: Any) -> bool:
    if not isinstance(spec, list) or len(spec) != 2 or not isinstance(spec[0], list):
        return False
    return all(_positive(side) for side in spec[0]) and spec[1] in DTYPES


def _positive(value: Any) -> bool:
    return _whole(value) and value > 0


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_file_name(name: str) -> bool:
    return Path(name).name == name
