"""Shards: arrays of many examples in files of equal size, written so that an interrupted writer can continue.

A folder holds `index.json` and, for every shard, `<array>-00000.npy` (N, ...) for each array and
`keys-00000.json`, the stable names of its N examples. The index has `header`, everything that the arrays
depend on; `shards`, the number of examples in each; `files`, the SHA-256 of every file; `complete`; and its
own checksum. Every file is written under a temporary name and renamed, the index after every shard.

Checksums are verified when a folder is opened or, if the files exceed `_AT_ONCE` bytes in total, when each
file is first read. Format 1, of version 0.1.0, has no checksums.
"""

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from dioscuri.data.numpy_files import Damaged, read_npy
from dioscuri.data.shard_index import AGAIN, FORMAT, INDEX, matches, read_index, shard_file
from dioscuri.errors import UserError
from dioscuri.files import file_sha256, read_json, replacing, write_json, write_sealed_json

Array = np.ndarray
Specs = Mapping[str, tuple[tuple[int, ...], str]]
"""Shape of an example's array and its dtype, by name."""

SHARD_SIZE = 8192
_OPEN_SHARDS = 512  # files mapped at once, below the usual limit of a process
_AT_ONCE = 1 << 32


class ShardWriter:
    """Adds arrays to a folder in the order of their keys, continuing after those that an earlier process
    wrote with the same header. `what` names the set in messages, `extra_files` other files that belong to it.

    `header` is JSON-like; the writer adds the number of examples, the shard size and the arrays' specs. A
    `UserError` if the folder holds a set with another header.
    """

    def __init__(
        self,
        folder: Path,
        header: Mapping[str, Any],
        keys: Sequence[str],
        arrays: Specs,
        *,
        what: str,
        shard_size: int = SHARD_SIZE,
        extra_files: Sequence[str] = (),
    ) -> None:
        self._folder, self._keys, self._what, self._extra_files = folder, keys, what, extra_files
        self._held: dict[str, list[Array]] = {name: [] for name in arrays}
        header_fields = {
            "format": FORMAT,
            "n_examples": len(keys),
            "shard_size": shard_size,
            "arrays": arrays,
        }
        self.header: dict[str, Any] = json.loads(json.dumps({**header, **header_fields}))
        self._shards: list[int] = []
        self._files: dict[str, str] = {}
        self._resume()

    @property
    def n_examples(self) -> int:
        """Number of examples already written; the caller continues at this index."""
        return sum(self._shards)

    def add(self, arrays: Mapping[str, Array]) -> None:
        """Add the arrays (B, ...) of the next B examples; a shard is written as soon as it is full."""
        for name, (shape, _) in self.header["arrays"].items():
            if list(arrays[name].shape[1:]) != shape:
                raise ValueError(f"{name} are {arrays[name].shape[1:]}, the header says {tuple(shape)}")
            self._held[name].append(np.asarray(arrays[name]))
        size = self.header["shard_size"]
        while self._n_buffered() >= size:
            self._write(size)

    def finish(self) -> None:
        """Write the remaining examples and mark the set complete."""
        if rest := self._n_buffered():
            self._write(rest)
        if self.n_examples != len(self._keys):
            raise ValueError(f"{self.n_examples} of {len(self._keys)} examples have {self._what}")
        self._write_index(complete=True)

    def _n_buffered(self) -> int:
        return sum(map(len, next(iter(self._held.values()))))

    def _resume(self) -> None:
        """Continue after the full shards that an earlier process wrote."""
        if not (self._folder / INDEX).exists():
            return
        index = read_index(self._folder, self._what)
        if index["header"] != self.header:
            names = self.header | index["header"]
            differing = [name for name in names if self.header.get(name) != index["header"].get(name)]
            raise UserError(
                f"{self._what} {self._folder} were made with other settings ({', '.join(differing)}): remove "
                "the folder, or give another"
            )
        for number, size in enumerate(index["shards"]):
            files = {path.name: index["files"].get(path.name) for path in self._paths(number)}
            if any(not matches(self._folder / name, digest) for name, digest in files.items()):
                break
            self._shards.append(size)
            self._files |= files

    def _paths(self, number: int) -> list[Path]:
        return [shard_file(self._folder, name, number) for name in ("keys", *self.header["arrays"])]

    def _write(self, size: int) -> None:
        number, first = len(self._shards), self.n_examples
        for name, (_, dtype) in self.header["arrays"].items():
            held = np.concatenate(self._held[name])
            self._held[name] = [held[size:]]
            path = shard_file(self._folder, name, number)
            with replacing(path) as temporary, temporary.open("wb") as file:
                np.save(file, held[:size].astype(dtype))
        write_json(shard_file(self._folder, "keys", number), list(self._keys[first : first + size]))
        self._shards.append(size)
        self._files |= {path.name: file_sha256(path) for path in self._paths(number)}
        self._write_index(complete=False)

    def _write_index(self, *, complete: bool) -> None:
        files = self._files | {name: file_sha256(self._folder / name) for name in self._extra_files}
        content = {"header": self.header, "complete": complete, "shards": self._shards, "files": files}
        write_sealed_json(self._folder / INDEX, content)


class Shards:
    """A complete folder of shards, whose files are memory-mapped on demand."""

    def __init__(self, folder: Path, what: str) -> None:
        index = read_index(folder, what)
        self.folder, self.what, self.sizes = folder, what, index["shards"]
        self.header: dict[str, Any] = index["header"]
        if not index["complete"] or sum(self.sizes) != self.header["n_examples"]:
            raise UserError(f"{what} {folder} are unfinished: run the same command again to continue")
        self.starts = np.cumsum([0, *self.sizes])
        self.seals = Seals(folder, what, index["files"])
        self.keys = Keys(folder, what, self.sizes, self.seals)
        self._load = lru_cache(maxsize=_OPEN_SHARDS)(self._load_array)
        # Check all of them now, to report damage before work begins.
        n_bytes = 0
        for name in self.header["arrays"]:
            for number in range(len(self.sizes)):
                n_bytes += self._load(name, number).nbytes
        if n_bytes <= _AT_ONCE:
            self.seals.check_all()

    def __len__(self) -> int:
        return int(self.starts[-1])

    @property
    def notes(self) -> tuple[str, ...]:
        """One-line remarks for the user."""
        if self.header["format"] == FORMAT:
            return ()
        return (f"{self.folder}: written without checksums by an older version; damage would not show",)

    def read(self, name: str, indices: Array) -> Array:
        """Rows of an array at `indices` (B,) as a new array (B, ...)."""
        shape, dtype = self.header["arrays"][name]
        rows = np.empty((len(indices), *shape), dtype)
        shard = np.searchsorted(self.starts, indices, side="right") - 1
        for number in np.unique(shard):
            in_shard = shard == number
            array = self._load(name, int(number))
            self.seals.check(shard_file(self.folder, name, int(number)).name)
            rows[in_shard] = array[indices[in_shard] - self.starts[number]]
        return rows

    def _load_array(self, name: str, number: int) -> Array:
        path, (shape, dtype) = shard_file(self.folder, name, number), self.header["arrays"][name]
        expected = (self.sizes[number], *shape)
        try:
            array = read_npy(path)
        except Damaged as error:
            raise UserError(f"{self.what} {path} cannot be read ({error}): {AGAIN}") from error
        if array.dtype != dtype or array.shape != expected:
            raise UserError(
                f"{self.what} {path} are {array.dtype} {array.shape}, not {dtype} {expected}: {AGAIN}"
            )
        return array


class Seals:
    """Checksums of a folder's files, each verified once."""

    def __init__(self, folder: Path, what: str, digests: Mapping[str, str]) -> None:
        self.folder, self.what, self.digests = folder, what, digests
        self._unchecked = set(digests)

    def check(self, name: str) -> None:
        """Raise a `UserError` if a file does not match its checksum."""
        if name in self._unchecked:
            if not matches(self.folder / name, self.digests[name]):
                raise UserError(f"{self.what} {self.folder / name} do not match their sha256: {AGAIN}")
            self._unchecked.discard(name)

    def check_all(self) -> None:
        """Verify every file."""
        for name in sorted(self.digests):
            self.check(name)


class Keys(Sequence[str]):
    """Stable names of the examples, read shard by shard on demand."""

    def __init__(self, folder: Path, what: str, sizes: Sequence[int], seals: Seals) -> None:
        self.starts = np.cumsum([0, *sizes])

        def load(number: int) -> list[str]:
            seals.check(shard_file(folder, "keys", number).name)
            return _read_keys(folder, what, number, sizes[number])

        self.load = lru_cache(maxsize=2)(load)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        position = range(len(self))[index]
        number = int(np.searchsorted(self.starts, position, side="right")) - 1
        return self.load(number)[position - int(self.starts[number])]


def check_file(path: Path, what: str) -> None:
    """Raise a `UserError` if a file next to shards does not match the checksum in their index."""
    if (path.parent / INDEX).is_file():
        Seals(path.parent, what, read_index(path.parent, what)["files"]).check(path.name)


def _read_keys(folder: Path, what: str, number: int, size: int) -> list[str]:
    path = shard_file(folder, "keys", number)
    keys = read_json(path, "keys")
    if not isinstance(keys, list) or len(keys) != size or not all(isinstance(key, str) for key in keys):
        raise UserError(f"keys {path} of {what} are not a list of {size} names: {AGAIN}")
    return keys
