"""Pictures that are decoded when they are read."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import prod

import numpy as np

from dioscuri.data.image_files import Refused
from dioscuri.errors import UserError

Array = np.ndarray

_CACHED_BYTES = 2**30  # a set whose decoded pictures take no more stays in memory
_PER_TASK = 4  # pictures that a thread decodes in a row: a task takes as long as a tenth of a small JPEG


class Reader:
    """Decodes the pictures of a batch in parallel threads, and caches them if all fit into memory.

    `decode(index)` returns a picture uint8 (H, W, C) of `shape` or raises `Refused`; `decode_at(index, word)`
    decodes it at a random place and is not cached. `names` are for messages. With `skip_corrupt`, the next
    readable picture replaces one that is refused; `unreadable` then holds the refused one's index and the
    reason.
    """

    def __init__(
        self,
        names: Sequence[str],
        decode: Callable[[int], Array],
        shape: tuple[int, int, int],
        pool: ThreadPoolExecutor,
        *,
        skip_corrupt: bool,
        decode_at: Callable[[int, int], Array] | None = None,
    ) -> None:
        self.names, self.decode, self.shape, self.pool = names, decode, shape, pool
        self.decode_at = decode_at
        self.skip_corrupt = skip_corrupt
        self.unreadable: dict[int, str] = {}
        fits = len(names) * prod(shape) <= _CACHED_BYTES
        self.cache = np.empty((len(names), *shape), np.uint8) if fits else None
        self.is_cached = np.zeros(len(names), bool)

    def __call__(self, indices: Array) -> Array:
        """Pictures at `indices` (B,) as a new array (B, H, W, C)."""
        if self.cache is None:
            return self._decode_all(indices)
        missing = np.unique(indices[~self.is_cached[indices]])
        self.cache[missing] = self._decode_all(missing)
        self.is_cached[missing] = True
        pictures: Array = self.cache[indices]
        return pictures

    def draw(self, indices: Array, words: Array) -> Array:
        """Squares of the pictures at `indices` (B,), at places chosen by random `words` (B,)."""
        return self._decode_all(indices, words)

    def _decode_all(self, indices: Array, words: Array | None = None) -> Array:
        pictures = np.empty((len(indices), *self.shape), np.uint8)

        def fill(first: int) -> None:
            for row, index in enumerate(indices[first : first + _PER_TASK].tolist(), first):
                pictures[row] = self._decode(index, None if words is None else int(words[row]))

        for _ in self.pool.map(fill, range(0, len(indices), _PER_TASK)):
            pass  # raises what a task raised
        return pictures

    def _decode(self, index: int, word: int | None) -> Array:
        for offset in range(len(self.names)):
            number = (index + offset) % len(self.names)
            if number in self.unreadable:
                continue
            try:
                if word is not None and self.decode_at is not None:
                    return self.decode_at(number, word)
                return self.decode(number)
            except Refused as refused:
                if not self.skip_corrupt:
                    raise UserError(
                        f"{self.names[number]}: {refused}; repair or remove it, or set data.skip_corrupt=True"
                    ) from refused
                self.unreadable[number] = str(refused)
        raise UserError(f"{self.names[0]} and all that follow: no picture can be read")
