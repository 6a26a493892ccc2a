"""Token shards: pictures encoded by an image tokenizer, on which a prior is trained.

A folder of shards (`dioscuri.data.shards`) with the arrays `tokens` uint16 or uint32, (N, h, w) or, of
tokenizers without a grid, (N, L), and, if the pictures have labels, `labels` int32 (N,). If they have
captions, the folder `texts` inside holds the output of a text encoder (`dioscuri.data.texts`).
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dioscuri.data.shards import SHARD_SIZE, Shards, ShardWriter
from dioscuri.data.texts import TextSet, open_texts
from dioscuri.errors import UserError

Array = np.ndarray

WHAT = "tokens"
TEXTS = "texts"


@dataclass(frozen=True, kw_only=True)
class TokenSet:
    """Tokens (N, *grid) of pictures, each in [0, codebook_size), read only when `gather` asks for them.

    `grid` is (h, w), or (L,) for sequences. `header` is that of the index; its `tokenizer` names the
    tokenizer and the `sha256` of its weights. `labels` is int32 (N,) or None, `classes` the names of the
    classes, if they have any, `texts` the pictures' encoded captions or None.
    """

    name: str
    grid: tuple[int, ...]
    codebook_size: int
    header: Mapping[str, Any]
    keys: Sequence[str]
    labels: Array | None
    texts: TextSet | None
    classes: tuple[str, ...] = ()
    read: Callable[[Array], Array]
    notes: tuple[str, ...] = ()
    unreadable: Collection[int] = ()

    def __len__(self) -> int:
        return len(self.keys)

    def gather(self, indices: Sequence[int] | Array) -> Array:
        """Return a new int32 array (B, *grid) of the tokens at `indices` (B,), each in [0, N).

        Raises IndexError for an index out of range and a `UserError` for tokens outside the codebook.
        """
        requested = np.asarray(indices, dtype=np.int64)
        if requested.size and not (requested.min() >= 0 and requested.max() < len(self)):
            raise IndexError(f"picture index outside 0..{len(self) - 1} of {self.name}")
        tokens = self.read(requested)
        if tokens.size and tokens.max() >= self.codebook_size:
            raise UserError(
                f"tokens {self.name}: {int(tokens.max())} is not a code in 0..{self.codebook_size - 1}: "
                "remove "
                "the folder and encode the pictures again"
            )
        return tokens.astype(np.int32)


class TokenWriter:
    """Adds pictures' tokens to a folder in the order of their keys, continuing after those that an earlier
    process wrote with the same header.

    `header` is JSON-like and holds everything that the tokens depend on: `grid` [h, w] or [L],
    `codebook_size`, `tokenizer` and whatever the caller adds. A `UserError` if the folder holds tokens with
    another header.
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
        self._labels, self._codes = labels, header["codebook_size"]
        arrays: dict[str, tuple[tuple[int, ...], str]] = {
            "tokens": (tuple(header["grid"]), _dtype(self._codes))
        }
        if labels is not None:
            arrays["labels"] = ((), "int32")
        self._writer = ShardWriter(folder, header, keys, arrays, what=WHAT, shard_size=shard_size)
        self._taken = self._writer.n_examples

    @property
    def n_pictures(self) -> int:
        """Number of pictures already written; the caller continues at this index."""
        return self._writer.n_examples

    def add(self, tokens: Array) -> None:
        """Add the tokens (B, *grid) of the next B pictures; a shard is written as soon as it is full."""
        if len(tokens) and (tokens.min() < 0 or tokens.max() >= self._codes):
            raise ValueError(
                f"tokens reach from {tokens.min()} to {tokens.max()}, codes from 0 to {self._codes - 1}"
            )
        chosen = slice(self._taken, self._taken + len(tokens))
        labels = {} if self._labels is None else {"labels": np.asarray(self._labels[chosen])}
        self._writer.add({"tokens": tokens, **labels})
        self._taken += len(tokens)

    def finish(self) -> None:
        """Write the remaining examples and mark the set complete."""
        self._writer.finish()


def open_tokens(folder: Path) -> TokenSet:
    """Open a complete folder of shards; a `UserError` if it is missing, foreign, unfinished or damaged."""
    if not folder.is_dir():
        raise UserError(
            f"tokens {folder} do not exist: encode pictures with a tokenizer's run, "
            "synthesis.synthesis_mode=encoding"
        )
    shards = Shards(folder, WHAT)
    header, specs = shards.header, shards.header["arrays"]
    grid: Any = header.get("grid")
    codes: Any = header.get("codebook_size")
    is_number = isinstance(codes, int) and not isinstance(codes, bool) and codes > 0
    if not is_number or specs.get("tokens") != [grid, _dtype(codes)] or len(grid) not in (1, 2):
        raise UserError(
            f"tokens: {folder} holds no grids of tokens and no sequences: encode the pictures again"
        )
    labels = shards.read("labels", np.arange(len(shards))) if "labels" in specs else None
    texts = open_texts(folder / TEXTS) if (folder / TEXTS).is_dir() else None
    if texts is not None and not _same_keys(shards.keys, texts.keys):
        raise UserError(f"texts {folder / TEXTS} belong to other pictures: encode the captions again")
    return TokenSet(
        name=str(folder),
        grid=tuple(grid),
        codebook_size=codes,
        header=header,
        keys=shards.keys,
        labels=labels,
        texts=texts,
        classes=_classes(header, labels, folder),
        read=lambda indices: shards.read("tokens", indices),
        notes=(*shards.notes, *(texts.notes if texts else ())),
    )


def _classes(header: Mapping[str, Any], labels: Array | None, folder: Path) -> tuple[str, ...]:
    """Names of the classes, empty if the pictures had no class folders."""
    names = header.get("classes", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"tokens: {folder} has no list of class names: encode the pictures again")
    if names and labels is not None and (labels.min() < 0 or labels.max() >= len(names)):
        raise UserError(
            f"tokens: {folder} has class {int(labels.max())} of {len(names)} names: encode the pictures again"
        )
    return tuple(names)


def _same_keys(first: Sequence[str], second: Sequence[str]) -> bool:
    """Whether two sets have the same number of examples and, judging by a few, the same keys."""
    looked = np.linspace(0, len(first) - 1, min(len(first), 16)).astype(int)
    return len(first) == len(second) and all(first[int(i)] == second[int(i)] for i in looked)


def _dtype(codebook_size: int) -> str:
    return "uint16" if codebook_size <= 2**16 else "uint32"
