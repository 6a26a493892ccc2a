"""Encoded captions on disk: each is encoded once, by a text encoder of transformers, and then read.

A subfolder of the cache belongs to one text encoder, known by its files, and to what is read of it. For each
caption it holds a safetensors file, named after the caption's SHA-256, with half-precision arrays: `text` (S,
E), the encoder's states, `text_mask` (S,) and, if the model uses it, `pooled` (P,).
"""

import hashlib
import json
import threading
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from dioscuri.data.text_encoder import TextEncoder, TextSource
from dioscuri.errors import UserError
from dioscuri.files import check_plain, file_sha256, replacing, write_json

Array = np.ndarray

ABOUT = "encoder.json"
_READ = (".json", ".txt", ".model", ".safetensors")
_SEAL = "sha256"
_ROWS = 16


@dataclass(frozen=True, kw_only=True)
class CaptionSource:
    """The text encoder of a model's captions, and what the model takes: `length` tokens of a text, the hidden
    state `layer`, counted from the end, and whether it also takes the pooled state, micro-conditions, and the
    `last` state for its tokenizer's decoder.

    `device` of PyTorch runs the encoder; `cache` is the folder of encoded captions. `aesthetic_score` is that
    of pictures without one.
    """

    encoder: TextSource
    cache: Path
    length: int
    layer: int
    pooled: bool
    micro: bool = False
    last: bool = False
    aesthetic_score: float = 6.0
    encode_first: bool = False
    device: str = "cpu"


class CaptionCache:
    """The states of captions, from the cache or else from the text encoder, which is opened when needed.

    A damaged entry is named in a warning and encoded again.
    """

    def __init__(self, source: CaptionSource) -> None:
        settings = {"length": source.length, "layer": source.layer, "pooled": source.pooled}
        settings |= {"last": True} if source.last else {}
        about = {"encoder": _fingerprint(source.encoder), **settings}
        name = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
        self.source, self.folder, self._about = source, source.cache / name, about
        self._lock = threading.Lock()  # batches of training and of validation are read in different threads

    def __call__(self, captions: Sequence[str]) -> dict[str, Array]:
        """Arrays (B, ...) of captions: `text` and `pooled` float32, `text_mask` bool."""
        with self._lock:
            rows = {caption: self._read(caption) for caption in dict.fromkeys(captions)}
            rows |= self._encoded([caption for caption, row in rows.items() if row is None])
        chosen = [row for caption in captions if (row := rows[caption]) is not None]
        return {
            name: np.stack([row[name] for row in chosen]).astype(bool if name == "text_mask" else np.float32)
            for name in chosen[0]
        }

    def null(self) -> dict[str, Array]:
        """Arrays (1, ...) of the empty text."""
        return self([""])

    def lacking(self, captions: Sequence[str]) -> list[str]:
        """The captions that the cache does not hold, each once."""
        try:
            return [caption for caption in dict.fromkeys(captions) if not self._path(caption).exists()]
        except OSError as error:
            raise UserError(f"encoded captions: {error.filename} cannot be read: {error.strerror}") from error

    def token_counts(self, captions: Sequence[str]) -> list[int]:
        """The number of tokens of each caption before it is cut."""
        return self._encoder.token_counts(captions)

    @cached_property
    def _encoder(self) -> TextEncoder:
        source = self.source
        return TextEncoder(
            source.encoder.encoder,
            tokenizer=source.encoder.tokenizer,
            length=source.length,
            layer=source.layer,
            pooled=source.pooled,
            last=source.last,
            device=source.device,
        )

    def _encoded(self, captions: Sequence[str]) -> dict[str, dict[str, Array]]:
        """Encode captions and write them to the cache.

        The encoder always gets the same number of texts: states then do not depend, not even in their last
        bit, on which others are encoded, and a run that continues sees the same ones.
        """
        size = 1 if self.source.device == "cpu" else _ROWS
        rows: dict[str, dict[str, Array]] = {}
        for first in range(0, len(captions), size):
            chosen = list(captions[first : first + size])
            arrays = self._encoder(chosen + [""] * (size - len(chosen)))
            for number, caption in enumerate(chosen):
                row = {name: array[number] for name, array in arrays.items()}
                rows[caption] = {
                    name: array if name == "text_mask" else array.astype(np.float16)
                    for name, array in row.items()
                }
                self._write(caption, rows[caption])
        return rows

    def _path(self, caption: str) -> Path:
        name = hashlib.sha256(caption.encode()).hexdigest()
        return self.folder / name[:2] / f"{name}.safetensors"

    def _read(self, caption: str) -> dict[str, Array] | None:
        """The arrays of a caption; None if they are not in the cache, or damaged."""
        path = self._path(caption)
        try:
            check_plain(path)
            with safe_open(path, "numpy") as file:
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
                seal = (file.metadata() or {}).get(_SEAL)
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError) as error:
            arrays, seal = {}, str(error)
        if not arrays or seal != _checksum(arrays):
            warnings.warn(f"encoded caption {path} is damaged: it is encoded again", stacklevel=3)
            return None
        return arrays

    def _write(self, caption: str, arrays: dict[str, Array]) -> None:
        try:
            if not (self.folder / ABOUT).exists():
                write_json(self.folder / ABOUT, {**asdict(self.source.encoder), "settings": self._about})
            with replacing(self._path(caption)) as temporary:
                temporary.write_bytes(save(arrays, {_SEAL: _checksum(arrays)}))
        except (OSError, UserError) as error:
            raise UserError(
                f"encoded captions: {error}; make room and the folder writable, or name another with "
                "data.text_cache_path"
            ) from error


def _fingerprint(source: TextSource) -> str:
    """SHA-256 of the encoder's files and its tokenizer's."""
    folders = [Path(source.encoder), *([Path(source.tokenizer)] if source.tokenizer else [])]
    try:
        files = [path for folder in folders for path in sorted(folder.iterdir()) if path.suffix in _READ]
        files = [path for path in files if path.is_file()]
        return _hashed(tuple((path, path.stat().st_size, path.stat().st_mtime_ns) for path in files))
    except OSError as error:
        raise UserError(f"text encoder: {error.filename} cannot be read: {error.strerror}") from error


@lru_cache(maxsize=8)
def _hashed(files: tuple[tuple[Path, int, int], ...]) -> str:
    lines = [f"{path.name} {file_sha256(path)}" for path, _, _ in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _checksum(arrays: dict[str, Array]) -> str:
    total = hashlib.sha256()
    for name in sorted(arrays):
        total.update(f"{name} {arrays[name].dtype} {arrays[name].shape} ".encode())
        total.update(np.ascontiguousarray(arrays[name]).tobytes())
    return total.hexdigest()
