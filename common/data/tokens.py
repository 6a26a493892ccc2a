"""Token shards: pictures as an image tokenizer sees them, in files that a prior is trained on.

A folder holds `index.json` and shards of equal size, in order: `tokens-00000.npy` uint16 or uint32 (N, h, w),
`keys-00000.json`, the stable names of its N pictures, and, where the pictures have labels, `labels-00000.npy`
int32 (N,). The index has `header`, what the tokens depend on; `shards`, the number of pictures of each; and
`complete`. Every file is written beside and renamed, and the index after every shard, so that an interrupted
encoding goes on with the first shard that is missing.
"""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import UserError
from common.run.files import read_json, replacing, write_json

Array = np.ndarray

FORMAT = 1
INDEX = "index.json"
SHARD_SIZE = 8192
_OPEN_SHARDS = 512  # files mapped at once, below the usual limit of a process
_AGAIN = "remove the folder and encode the pictures again"


@dataclass(frozen=True, kw_only=True)
class TokenSet:
    """Tokens (N, h, w) of pictures, each in [0, codebook_size), read only when `gather` asks for them.

    `header` is the index's own: `tokenizer` names what made the tokens, with the `sha256` of its weights.
    `labels` is int32 (N,) or None. All of its pictures could be read.
    """

    name: str
    grid: tuple[int, int]
    codebook_size: int
    header: Mapping[str, Any]
    keys: Sequence[str]
    labels: Array | None
    read: Callable[[Array], Array]
    notes: tuple[str, ...] = ()
    unreadable: Collection[int] = ()

    def __len__(self) -> int:
        return len(self.keys)

    def gather(self, indices: Sequence[int] | Array) -> Array:
        """Return a new int32 array (B, h, w) of the tokens at `indices` (B,), each in [0, N).

        Raises IndexError for an index outside and a `UserError` for tokens that are no codes.
        """
        wanted = np.asarray(indices, dtype=np.int64)
        if wanted.size and not (wanted.min() >= 0 and wanted.max() < len(self)):
            raise IndexError(f"picture index outside 0..{len(self) - 1} of {self.name}")
        tokens = self.read(wanted).astype(np.int32)
        if tokens.size and not (tokens.min() >= 0 and tokens.max() < self.codebook_size):
            raise UserError(
                f"tokens {self.name}: {int(tokens.max())} is no code of 0..{self.codebook_size - 1}: {_AGAIN}"
            )
        return tokens


class TokenWriter:
    """Adds pictures' tokens to a folder in the order of their keys, after those that an earlier process left
    there under the same header.

    `header` is JSON-like and says what the tokens depend on: `grid` [h, w], `codebook_size`, `tokenizer`,
    whatever else the caller adds. A `UserError` where the folder holds tokens of another header.
    """

    def __init__(
        self,
        folder: Path,
        header: Mapping[str, Any],
        keys: Sequence[str],
        labels: Array | None = None,
        *,
        shard_size: int = SHARD_SIZE,
    ) -> None:
        self._folder, self._keys, self._labels = folder, keys, labels
        self._held: list[Array] = []
        facts: dict[str, Any] = {"format": FORMAT, "n_pictures": len(keys), "shard_size": shard_size}
        self.header: dict[str, Any] = json.loads(
            json.dumps({**header, **facts, "labelled": labels is not None})
        )
        self._shards: list[int] = self._found()

    @property
    def n_pictures(self) -> int:
        """Pictures in the shards so far: the caller goes on with the one of this index."""
        return sum(self._shards)

    def add(self, tokens: Array) -> None:
        """Take the tokens (B, h, w) of the next B pictures; a shard is written as soon as it is full."""
        h, w = self.header["grid"]
        if tokens.shape[1:] != (h, w):
            raise ValueError(f"tokens are {tokens.shape[1:]}, the header says {(h, w)}")
        self._held.append(np.asarray(tokens))
        size = self.header["shard_size"]
        while sum(map(len, self._held)) >= size:
            self._write(size)

    def finish(self) -> None:
        """Write what is left and mark the set complete."""
        if self._held and len(rest := np.concatenate(self._held)):
            self._write(len(rest))
        if self.n_pictures != len(self._keys):
            raise ValueError(f"{self.n_pictures} of {len(self._keys)} pictures have tokens")
        self._write_index(complete=True)

    def _found(self) -> list[int]:
        """Sizes of the shards that an earlier process left."""
        if not (self._folder / INDEX).exists():
            return []
        index = _read_index(self._folder)
        if index["header"] != self.header:
            differing = [
                name
                for name in self.header | index["header"]
                if self.header.get(name) != index["header"].get(name)
            ]
            raise UserError(
                f"tokens {self._folder} were made otherwise ({', '.join(differing)}): remove the folder, or "
                "give another one"
            )
        sizes: list[int] = []
        for number, size in enumerate(index["shards"]):
            if not _shard_path(self._folder, "tokens", number).exists():
                break
            sizes.append(size)
        return sizes

    def _write(self, size: int) -> None:
        held, number, first = np.concatenate(self._held), len(self._shards), self.n_pictures
        tokens, self._held = held[:size], [held[size:]]
        K = self.header["codebook_size"]
        if tokens.min() < 0 or tokens.max() >= K:
            raise ValueError(f"tokens reach from {tokens.min()} to {tokens.max()}, codes from 0 to {K - 1}")
        chosen = slice(first, first + size)
        _save_array(_shard_path(self._folder, "tokens", number), tokens.astype(_dtype(K)))
        if self._labels is not None:
            labels = np.asarray(self._labels[chosen], np.int32)
            _save_array(_shard_path(self._folder, "labels", number), labels)
        write_json(_shard_path(self._folder, "keys", number), list(self._keys[chosen]))
        self._shards.append(size)
        self._write_index(complete=False)

    def _write_index(self, *, complete: bool) -> None:
        content = {"header": self.header, "complete": complete, "shards": self._shards}
        write_json(self._folder / INDEX, content)


def open_tokens(folder: Path) -> TokenSet:
    """Open a complete folder of shards; a `UserError` where it is missing, foreign, unfinished or damaged."""
    if not folder.is_dir():
        raise UserError(
            f"tokens {folder} do not exist: encode pictures with a tokenizer's run, "
            "synthesis.synthesis_mode=encoding"
        )
    index = _read_index(folder)
    header, sizes = index["header"], index["shards"]
    if not index["complete"] or sum(sizes) != header["n_pictures"]:
        raise UserError(f"tokens {folder} are unfinished: run synthesis.synthesis_mode=encoding again")
    labelled = sizes if header["labelled"] else []
    labels = [_read_labels(folder, number, size) for number, size in enumerate(labelled)]
    return TokenSet(
        name=str(folder),
        grid=(header["grid"][0], header["grid"][1]),
        codebook_size=header["codebook_size"],
        header=header,
        keys=_Keys(folder, sizes),
        labels=np.concatenate(labels) if header["labelled"] else None,
        read=_Shards(folder, header, sizes),
    )


class _Shards:
    """Rows of the shards of a folder, read as if they were one array; files are mapped when needed."""

    def __init__(self, folder: Path, header: Mapping[str, Any], sizes: Sequence[int]) -> None:
        self.starts = np.cumsum([0, *sizes])
        self.grid = tuple(header["grid"])
        dtype = _dtype(header["codebook_size"])

        def load(number: int) -> Array:
            path, shape = _shard_path(folder, "tokens", number), (sizes[number], *self.grid)
            array = _load_array(path)
            if array.dtype != dtype or array.shape != shape:
                raise UserError(
                    f"tokens {path} are {array.dtype} {array.shape}, not {dtype} {shape}: {_AGAIN}"
                )
            return array

        self.load = lru_cache(maxsize=_OPEN_SHARDS)(load)
        for number in range(len(sizes)):
            self.load(number)

    def __call__(self, indices: Array) -> Array:
        """Rows at `indices` (B,) as a new array (B, h, w)."""
        rows = np.empty((len(indices), *self.grid), np.uint32)
        shard = np.searchsorted(self.starts, indices, side="right") - 1
        for number in np.unique(shard):
            here = shard == number
            rows[here] = self.load(int(number))[indices[here] - self.starts[number]]
        return rows


class _Keys(Sequence[str]):
    """Stable names of the pictures, read shard by shard when asked for."""

    def __init__(self, folder: Path, sizes: Sequence[int]) -> None:
        self.starts = np.cumsum([0, *sizes])
        self.load = lru_cache(maxsize=2)(lambda number: _read_keys(folder, number, sizes[number]))

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        position = range(len(self))[index]
        number = int(np.searchsorted(self.starts, position, side="right")) - 1
        return self.load(number)[position - int(self.starts[number])]


def _dtype(codebook_size: int) -> np.dtype[Any]:
    return np.dtype(np.uint16 if codebook_size <= 2**16 else np.uint32)


def _shard_path(folder: Path, what: str, number: int) -> Path:
    return folder / f"{what}-{number:05d}{'.json' if what == 'keys' else '.npy'}"


def _save_array(path: Path, array: Array) -> None:
    with replacing(path) as beside, beside.open("wb") as file:
        np.save(file, array)


def _load_array(path: Path) -> Array:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"tokens {path} cannot be read ({error}): {_AGAIN}") from error
    if not isinstance(array, np.ndarray):
        raise UserError(f"tokens {path} are no .npy file: {_AGAIN}")
    return array


def _read_labels(folder: Path, number: int, size: int) -> Array:
    path = _shard_path(folder, "labels", number)
    labels = _load_array(path)
    if labels.shape != (size,) or labels.dtype != np.int32:
        raise UserError(f"labels {path} are {labels.dtype} {labels.shape}, not int32 {(size,)}: {_AGAIN}")
    return np.array(labels)


def _read_keys(folder: Path, number: int, size: int) -> list[str]:
    path = _shard_path(folder, "keys", number)
    keys = read_json(path, "keys")
    if not isinstance(keys, list) or len(keys) != size or not all(isinstance(key, str) for key in keys):
        raise UserError(f"keys {path} are no list of {size} names: {_AGAIN}")
    return keys


def _read_index(folder: Path) -> dict[str, Any]:
    path = folder / INDEX
    index: Any = read_json(path, "tokens")
    if not _is_index(index):
        raise UserError(f"tokens: {path} is no index of tokens: {_AGAIN}")
    found = index["header"]["format"]
    if found != FORMAT:
        raise UserError(f"tokens {folder} are of format {found!r}, this program reads {FORMAT}")
    result: dict[str, Any] = index
    return result


def _is_index(index: Any) -> bool:
    parts = {"header": dict, "complete": bool, "shards": list}
    if not isinstance(index, dict) or any(not isinstance(index.get(n), kind) for n, kind in parts.items()):
        return False
    header = index["header"]
    whole = {"format": int, "n_pictures": int, "shard_size": int, "codebook_size": int, "labelled": bool}
    if any(not isinstance(header.get(name), kind) for name, kind in whole.items()):
        return False
    grid = header.get("grid")
    sides = isinstance(grid, list) and len(grid) == 2 and all(_positive(side) for side in grid)
    return sides and _positive(header["codebook_size"]) and all(_positive(size) for size in index["shards"])


def _positive(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
