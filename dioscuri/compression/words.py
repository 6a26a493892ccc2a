"""A stack of 32-bit words that may be longer than memory."""

import hashlib
from typing import BinaryIO

import numpy as np

Array = np.ndarray

CAPACITY = 1 << 20
"""Words in memory."""
_BLOCK = 1024


class Exhausted(Exception):
    """More was taken off a stack than lies on it."""


class Words:
    """A stack of words (uint32), its lower part in a file behind `offset`.

    With a `seed`, an endless sequence of pseudo-random words lies below the bottom: bits that a coder borrows
    and its decoder gives back. `borrowed` counts them. Without one, the stack ends, with `Exhausted`.
    """

    def __init__(
        self, file: BinaryIO, offset: int, length: int = 0, *, seed: int | None, capacity: int = CAPACITY
    ) -> None:
        self.file, self.offset, self.seed = file, offset, seed
        self.borrowed = 0
        self._filed = length
        self._memory, self._n = np.empty(capacity, np.uint32), 0

    def __len__(self) -> int:
        """Words on the stack, without the borrowed."""
        return self._filed + self._n

    def push(self, words: Array) -> None:
        """Put words on the stack, the last on top."""
        n = len(words)
        while self._n + n > len(self._memory):
            self._file(max(self._n // 2, 1)) if self._n else self._widen(n)
        self._memory[self._n : self._n + n] = words
        self._n += n

    def pop(self, n: int) -> Array:
        """Take the n words that were put on last, in the order of `push`."""
        if n > self._n and self._filed:
            self._fetch(n)
        here = min(n, self._n)
        self._n -= here
        top = self._memory[self._n : self._n + here].copy()
        return top if here == n else np.concatenate([self._borrow(n - here), top])

    def flush(self) -> int:
        """Write what is in memory to the file, cut it off there, and return the file's length."""
        self._file(self._n)
        return self.file.truncate(self.offset + 4 * self._filed)

    def _file(self, n: int) -> None:
        """Move the lowest n words from memory to the file."""
        self.file.seek(self.offset + 4 * self._filed)
        self.file.write(self._memory[:n].astype("<u4").tobytes())
        self._filed += n
        self._memory[: self._n - n] = self._memory[n : self._n].copy()
        self._n -= n

    def _fetch(self, n: int) -> None:
        """Move words from the file to memory, so that n are there if the stack has as many."""
        count = min(self._filed, max(n - self._n, len(self._memory) // 2 - self._n))
        self._filed -= count
        self.file.seek(self.offset + 4 * self._filed)
        read = np.frombuffer(self.file.read(4 * count), "<u4")
        if len(read) < count:
            raise Exhausted
        both = np.concatenate([read, self._memory[: self._n]])
        self._widen(len(both))
        self._memory[: len(both)], self._n = both, len(both)

    def _widen(self, n: int) -> None:
        if n > len(self._memory):
            self._memory = np.concatenate([self._memory, np.empty(n, np.uint32)])

    def _borrow(self, n: int) -> Array:
        if self.seed is None:
            raise Exhausted
        words = random_words(self.seed, self.borrowed, n)
        self.borrowed += n
        return words[::-1]


def random_words(seed: int, first: int, n: int) -> Array:
    """Words `first` to `first + n` of a seed's sequence, the same everywhere and in all versions."""
    blocks = range(first // _BLOCK, -(-(first + n) // _BLOCK))
    drawn = [hashlib.shake_128(f"dioscuri {seed} {block}".encode()).digest(4 * _BLOCK) for block in blocks]
    start = first - _BLOCK * blocks.start if blocks else 0
    return np.frombuffer(b"".join(drawn), "<u4")[start : start + n].astype(np.uint32)
