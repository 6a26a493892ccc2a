"""The file of compressed pictures, `.dio`.

    8 bytes   b"DIOSCU1" and a letter: 'i' incomplete, 'c' complete
    4 bytes   length of the header
    header    deflated JSON: the model, the machine, the code's options
    words     the message's stack, 4 bytes each, little-endian
    trailer   deflated JSON: pictures, batches, borrowed words, lanes, checksum of the pictures
    heads     of the message's lanes, packed
    12 bytes  lengths of trailer and heads, CRC-32 of all between the first 8 bytes and here

The letter becomes 'c' last, so a file says of itself that it is incomplete. Numbers are little-endian.
"""

import json
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, BinaryIO

import numpy as np

from dioscuri.compression.rans import Coder, Inconsistent, pack_heads, unpack_heads
from dioscuri.compression.words import CAPACITY, Words, random_words
from dioscuri.errors import UserError

Array = np.ndarray

MAGIC = b"DIOSCU1"
SUFFIX = ".dio"
_INCOMPLETE, _COMPLETE = b"i", b"c"
_LENGTH, _FOOTER = struct.Struct("<I"), struct.Struct("<III")
_START = len(MAGIC) + 1
_CHUNK = 1 << 20
_MAX_HEADER = 1 << 24


@dataclass
class Batches:
    """What was compressed, in order: runs of batches of one size, and a checksum of all pictures that does
    not depend on the order in which it is computed."""

    runs: list[list[int]]
    """Pairs of a size and a number of batches."""
    checksum: int = 0

    @property
    def pictures(self) -> int:
        """Their number."""
        return sum(size * n for size, n in self.runs)

    def add(self, pictures: Array) -> None:
        """Count a batch."""
        self.checksum = (self.checksum + checksum(pictures, self.pictures)) % 2**64
        if self.runs and self.runs[-1][0] == len(pictures):
            self.runs[-1][1] += 1
        else:
            self.runs.append([len(pictures), 1])


def check_start(coder: Coder, seed: int, borrowed: int) -> None:
    """Raise `Inconsistent` unless a message is decoded to its start: the words that it borrowed are left."""
    left = len(coder.words)
    if len(coder.heads) or left != borrowed:
        raise Inconsistent
    for first in range(0, left, _CHUNK):
        n = min(_CHUNK, left - first)
        if (coder.words.pop(n)[::-1] != random_words(seed, first, n)).any():
            raise Inconsistent


def checksum(pictures: Array, first: int) -> int:
    """Of pictures with numbers from `first`, to be summed up modulo 2^64."""
    total = 0
    for number, picture in enumerate(pictures, first):
        digest = blake2b(number.to_bytes(8, "little") + picture.tobytes(), digest_size=8).digest()
        total += int.from_bytes(digest, "little")
    return total % 2**64


class Writer:
    """Writes a file: `coder` takes the message, `batches` counts, `finish` makes the file complete."""

    def __init__(
        self, file: BinaryIO, header: Mapping[str, Any], seed: int, capacity: int = CAPACITY
    ) -> None:
        self.file, packed = file, _pack(header)
        file.write(MAGIC + _INCOMPLETE + _LENGTH.pack(len(packed)) + packed)
        file.flush()
        self.header_bytes = _START + _LENGTH.size + len(packed)
        self.words = Words(file, self.header_bytes, seed=seed, capacity=capacity)
        self.coder, self.batches = Coder(self.words), Batches([])

    def finish(self) -> dict[str, int]:
        """End the file. Returns its `bytes`, those of them that are `overhead` (header, trailer), and
        `initial`, the bits that the code had to borrow."""
        end, batches, lanes = self.words.flush(), self.batches, len(self.coder.heads)
        trailer = _pack([batches.runs, self.words.borrowed, lanes, batches.checksum])
        heads = pack_heads(self.coder.heads)
        self.file.seek(end)
        self.file.write(trailer + heads)
        total = end + len(trailer) + len(heads)
        check = _crc(self.file, total)
        self.file.seek(total)
        self.file.write(_FOOTER.pack(len(trailer), len(heads), check))
        self.file.seek(len(MAGIC))
        self.file.write(_COMPLETE)
        overhead = self.header_bytes + len(trailer) + _FOOTER.size
        return {"bytes": total + _FOOTER.size, "overhead": overhead, "initial": 32 * self.words.borrowed}


class Reader:
    """Opens a file that `Writer` wrote; a `UserError` with its `name` if it is incomplete or damaged."""

    def __init__(self, file: BinaryIO, name: str, capacity: int = CAPACITY) -> None:
        self.name, self.capacity = name, capacity
        try:
            self._open(file)
        except UserError:
            raise
        except (Inconsistent, ValueError, TypeError, struct.error, zlib.error, RecursionError) as error:
            raise self.damaged() from error

    def damaged(self) -> UserError:
        """What is wrong with a file whose content contradicts itself."""
        return UserError(f"{self.name} is damaged or truncated: copy or download it again")

    def _open(self, file: BinaryIO) -> None:
        start = file.read(_START)
        if start[: len(MAGIC)] != MAGIC:
            kind = "empty" if not start else f"not a {SUFFIX} file that compress of this version wrote"
            raise UserError(f"{self.name} is {kind}")
        if start[len(MAGIC) :] != _COMPLETE:
            raise UserError(f"{self.name} is incomplete: its compression was interrupted; compress again")
        total = file.seek(0, 2) - _FOOTER.size
        file.seek(max(total, 0))
        trailer, heads, check = _FOOTER.unpack(file.read(_FOOTER.size))
        file.seek(_START)
        (header,) = _LENGTH.unpack(file.read(_LENGTH.size))
        offset, end = _START + _LENGTH.size + header, total - trailer - heads
        if end < offset or (end - offset) % 4 or _crc(file, total) != check:
            raise self.damaged()
        file.seek(_START + _LENGTH.size)
        self.header: dict[str, Any] = _unpack(file.read(header))
        if not isinstance(self.header, dict):
            raise Inconsistent
        file.seek(end)
        runs, self.borrowed, lanes, self.checksum = _unpack(file.read(trailer))
        self.batches = Batches([[_count(n) for n in run] for run in runs], self.checksum)
        words = Words(file, offset, (end - offset) // 4, seed=None, capacity=self.capacity)
        self.coder = Coder(words, unpack_heads(file.read(heads), lanes))


def _count(n: Any) -> int:
    if not isinstance(n, int) or n < 1:
        raise Inconsistent
    return n


def _pack(value: Any) -> bytes:
    return zlib.compress(json.dumps(value, separators=(",", ":")).encode(), 9)


def _unpack(packed: bytes) -> Any:
    opened = zlib.decompressobj()
    return json.loads(opened.decompress(packed, _MAX_HEADER))


def _crc(file: BinaryIO, end: int) -> int:
    """CRC-32 of a file between its first bytes and `end`."""
    file.seek(_START)
    check, left = 0, end - _START
    while left > 0:
        read = file.read(min(_CHUNK, left))
        if not read:
            break
        check, left = zlib.crc32(read, check), left - len(read)
    return check
