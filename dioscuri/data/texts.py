"""Encoded captions or prompts: a text encoder's output, in shards that both twins read.

A folder of shards (`dioscuri.data.shards`) with the arrays `text` (N, S, E), the encoder's states;
`text_mask` (N, S), True at real tokens; and, if they are used, `pooled` (N, P), a pooled state,
`decoder_text` (N, S, E), the encoder's last states, which the tokenizer's decoder reads, and `micro` (N, 5):
original width and height, top and left of the crop, aesthetic score. Next to them is
`null.safetensors`, the same arrays (1, ...), except `micro`, of an empty text.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from dioscuri.data.shards import Shards, ShardWriter, check_file
from dioscuri.errors import UserError
from dioscuri.files import check_plain, replacing

Array = np.ndarray

WHAT = "texts"
NULL = "null.safetensors"
DECODER_TEXT = "decoder_text"
"""Texts as a tokenizer's decoder reads them (TA-TiTok, Kim et al. 2025), which the network does not read."""
RANKS = {"text": 2, "text_mask": 1, "pooled": 1, "micro": 1, DECODER_TEXT: 2}
SHARD_SIZE = 1024  # 77 states of 768 halves each: 120 MB


class Texts(Protocol):
    """Encoded texts, such as captions of pictures; `shapes` are those of a text's arrays."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]: ...

    def __len__(self) -> int: ...

    def gather(
        self, indices: Sequence[int] | Array, words: Array | None = None, places: Array | None = None
    ) -> dict[str, Array]:
        """Arrays (B, ...) at `indices` (B,): float32, the mask bool.

        Random `words` (B,) choose one of several texts; without them it is the first. `places` (B,) are the
        words that chose the places of the pictures that go with the texts, which `micro` tells.
        """


class TextSet:
    """Arrays of N texts, read only when `gather` asks for them."""

    def __init__(self, shards: Shards, null: Mapping[str, Array]) -> None:
        self._shards, self.null, self.notes = shards, null, shards.notes
        self.keys: Sequence[str] = shards.keys
        self.shapes: dict[str, tuple[int, ...]] = {
            name: tuple(shape) for name, (shape, _) in shards.header["arrays"].items()
        }

    def __len__(self) -> int:
        return len(self._shards)

    def gather(
        self, indices: Sequence[int] | Array, words: Array | None = None, places: Array | None = None
    ) -> dict[str, Array]:
        """Arrays (B, ...) at `indices` (B,): float32, the mask bool. There is one text each."""
        del words, places
        requested = np.asarray(indices, np.int64)
        return {name: _plain(name, self._shards.read(name, requested)) for name in self.shapes}


class TextWriter:
    """Adds arrays of texts to a folder in the order of their keys, after those that an earlier process wrote.

    `header` is JSON-like and names the encoder; `null` holds the arrays (1, ...) of an empty text, which also
    define the shapes.
    """

    def __init__(
        self,
        folder: Path,
        header: Mapping[str, Any],
        keys: Sequence[str],
        null: Mapping[str, Array],
        *,
        micro: bool = False,
        shard_size: int = SHARD_SIZE,
    ) -> None:
        arrays = {name: (array.shape[1:], _stored(name)) for name, array in null.items()}
        arrays |= {"micro": ((5,), "float32")} if micro else {}
        self._writer = ShardWriter(
            folder, header, keys, arrays, what=WHAT, shard_size=shard_size, extra_files=(NULL,)
        )
        with replacing(folder / NULL) as temporary:
            temporary.write_bytes(save({name: array.astype(_stored(name)) for name, array in null.items()}))

    @property
    def n_texts(self) -> int:
        """Number of texts already written; the caller continues at this index."""
        return self._writer.n_examples

    def add(self, arrays: Mapping[str, Array]) -> None:
        """Add the arrays (B, ...) of the next B texts."""
        self._writer.add(arrays)

    def finish(self) -> None:
        """Write the remaining examples and mark the set complete."""
        self._writer.finish()


def open_texts(folder: Path) -> TextSet:
    """Open a complete folder; a `UserError` if it is missing, foreign, unfinished or damaged."""
    if not folder.is_dir():
        raise UserError(f"texts {folder} do not exist: encode captions with data_scripts/encode_text.py")
    shards = Shards(folder, WHAT)
    specs = shards.header["arrays"]
    if "text" not in specs or any(len(shape) != RANKS.get(name) for name, (shape, _) in specs.items()):
        raise UserError(f"texts: {folder} holds {', '.join(specs)}, not encoded texts")
    null = read_null(folder / NULL)
    expected = {name: (1, *shape) for name, (shape, _) in specs.items() if name != "micro"}
    if {name: array.shape for name, array in null.items()} != expected:
        raise UserError(
            f"texts {folder / NULL} does not fit the shards next to it: encode the captions again"
        )
    return TextSet(shards, null)


def read_null(path: Path) -> dict[str, Array]:
    """Arrays (1, ...) of an empty text; a `UserError` if the file is missing or damaged."""
    check_file(path, WHAT)
    try:
        check_plain(path)
        return {name: _plain(name, array) for name, array in load_file(path).items()}
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"texts {path} cannot be read ({error}): encode the captions with data_scripts/encode_text.py"
        ) from error


def _stored(name: str) -> str:
    """Dtype in the files; half precision suffices for an encoder's output."""
    return {"text_mask": "bool", "micro": "float32"}.get(name, "float16")


def _plain(name: str, array: Array) -> Array:
    return array.astype(bool if name == "text_mask" else np.float32)
