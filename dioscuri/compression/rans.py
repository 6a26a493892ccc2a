"""Range asymmetric numeral systems (Duda 2013), interleaved over lanes (Giesen 2014).

A message is one head (uint64) per lane and a stack of words that all lanes share. A symbol of frequency f
that starts at c of 2^r is pushed by x -> (x div f) 2^r + x mod f + c, and popped by the inverse. Heads lie in
[2^31, 2^63), so nothing overflows for r up to 31.
"""

from collections.abc import Callable

import numpy as np

from dioscuri.compression.words import Words

Array = np.ndarray
Find = Callable[[slice, Array], tuple[Array, Array, Array]]
"""Given places of the symbols and numbers below 2^r: the symbols whose intervals hold these, with the
intervals' starts and frequencies."""

LOW, WORD = np.uint64(1 << 31), np.uint64(32)
_WORD_MASK, _LENGTH_BITS = np.uint64(2**32 - 1), 5


class Inconsistent(Exception):
    """A message is none that a coder wrote."""


class Coder:
    """A message that symbols are pushed to and popped from, last in, first out."""

    def __init__(self, words: Words, heads: Array | None = None) -> None:
        self.words = words
        self.heads = np.empty(0, np.uint64) if heads is None else heads

    def resize(self, lanes: int) -> None:
        """Take new lanes' heads from the words, or put the last lanes' heads back, which is the inverse."""
        n = lanes - len(self.heads)
        if n > 0:
            taken = self.words.pop(n).astype(np.uint64)
            self.heads = np.concatenate([self.heads, taken | (np.uint64(1) << WORD)])
        elif n < 0:
            given, self.heads = self.heads[n:], self.heads[:n]
            if (given >> WORD != 1).any():
                raise Inconsistent
            self.words.push((given & _WORD_MASK).astype(np.uint32))

    def push(self, start: Array, frequency: Array, bits: Array) -> None:
        """Push symbols (n,) of intervals [start, start + frequency) of 2^bits, all uint64 and frequencies at
        least 1, so that `pop` returns them in order."""
        lanes = len(self.heads)
        for first in reversed(range(0, len(start), lanes)):
            place = slice(first, first + lanes)
            self._push(start[place], frequency[place], bits[place])

    def pop(self, bits: Array, find: Find) -> Array:
        """Pop as many symbols as there are `bits` (n,), uint64."""
        lanes, symbols = len(self.heads), []
        for first in range(0, len(bits), lanes):
            place = slice(first, min(first + lanes, len(bits)))
            symbols.append(self._pop(bits[place], place, find))
        return np.concatenate(symbols) if symbols else np.empty(0, np.uint64)

    def _push(self, start: Array, frequency: Array, bits: Array) -> None:
        x = self.heads[: len(start)]
        full = x >= ((LOW >> bits) << WORD) * frequency
        if full.any():
            self.words.push((x[full] & _WORD_MASK).astype(np.uint32))
            x = np.where(full, x >> WORD, x)
        quotient, rest = np.divmod(x, frequency)
        self.heads[: len(start)] = (quotient << bits) + rest + start

    def _pop(self, bits: Array, place: slice, find: Find) -> Array:
        x = self.heads[: len(bits)]
        number = x & ((np.uint64(1) << bits) - np.uint64(1))
        symbols, start, frequency = find(place, number)
        x = frequency * (x >> bits) + number - start
        low = x < LOW
        if low.any():
            x[low] = (x[low] << WORD) | self.words.pop(int(low.sum()))
        self.heads[: len(bits)] = x
        return symbols


def pack_heads(heads: Array) -> bytes:
    """Heads in as many bits as they hold: a length, then the bits below the highest."""
    packed, n = 1, 0
    for head in heads.tolist():
        length = head.bit_length() - 1
        packed = (packed << _LENGTH_BITS | (length - 31)) << length | (head - (1 << length))
        n += _LENGTH_BITS + length
    return packed.to_bytes(n // 8 + 1, "big")


def unpack_heads(packed: bytes, lanes: int) -> Array:
    """The inverse of `pack_heads`."""
    number = int.from_bytes(packed, "big")
    rest, heads = number.bit_length() - 1, []
    for _ in range(lanes):
        rest -= _LENGTH_BITS
        length = 31 + (number >> rest & 31) if rest >= 0 else 0
        rest -= length
        if rest < 0:
            raise Inconsistent
        heads.append(1 << length | number >> rest & ((1 << length) - 1))
    if rest:
        raise Inconsistent
    return np.array(heads, np.uint64)
