"""CRC32C (Castagnoli) and the masked form that TFRecord files store, in numpy.

Long messages are cut into blocks whose remainders are computed in parallel and then joined: the remainder of
two concatenated messages is that of the first, shifted by the length of the second, plus that of the second.
"""

from functools import cache

import numpy as np

Array = np.ndarray

_POLYNOMIAL = 0x82F63B78  # reflected
_MASK_DELTA = 0xA282EAD8
_BLOCK = 256  # bytes of a message in one lane


def masked_crc32c(data: bytes) -> int:
    """CRC32C of `data`, rotated right by 15 bits plus a constant, as in a TFRecord file."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + _MASK_DELTA) & 0xFFFFFFFF


def crc32c(data: bytes) -> int:
    """The checksum of RFC 3720, appendix B.4."""
    if len(data) < 2 * _BLOCK:
        return _short(data) ^ 0xFFFFFFFF
    message = np.frombuffer(data, np.uint8).copy()
    message[:4] ^= 0xFF  # same as a register that starts with ones; ours starts with zeros
    lanes = 1 << (-(-len(message) // _BLOCK) - 1).bit_length()
    # Leading zeros leave such a register unchanged.
    blocks = np.zeros(lanes * _BLOCK, np.uint8)
    blocks[-len(message) :] = message
    columns = np.ascontiguousarray(blocks.reshape(lanes, _BLOCK).T).astype(np.uint32)
    table, remainders = _table(), np.zeros(lanes, np.uint32)
    for column in columns:
        remainders = table[(remainders ^ column) & 0xFF] ^ (remainders >> np.uint32(8))
    level = 0
    while len(remainders) > 1:
        remainders = _shifted(remainders[::2], _shift(level)) ^ remainders[1::2]
        level += 1
    return int(remainders[0]) ^ 0xFFFFFFFF


def _short(data: bytes) -> int:
    """The register after a short message."""
    table, register = _byte_remainders(), 0xFFFFFFFF
    for byte in data:
        register = table[(register ^ byte) & 0xFF] ^ register >> 8
    return register


@cache
def _byte_remainders() -> list[int]:
    """Remainders of the 256 bytes."""
    blocks = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)
        blocks.append(value)
    return blocks


@cache
def _table() -> Array:
    return np.array(_byte_remainders(), np.uint32)


def _shifted(remainders: Array, tables: Array) -> Array:
    """Remainders after further zero bytes, looked up in one table per byte of the register."""
    shifted = np.zeros_like(remainders)
    for k in range(4):
        shifted ^= tables[k][(remainders >> np.uint32(8 * k)) & 0xFF]
    return shifted


@cache
def _shift(level: int) -> Array:
    """Tables (4, 256) of the shift by `_BLOCK` * 2^level zero bytes."""
    single = (np.arange(256, dtype=np.uint32)[None] << (8 * np.arange(4, dtype=np.uint32))[:, None]).ravel()
    if level:
        shifted = _shifted(_shifted(single, _shift(level - 1)), _shift(level - 1))
    else:
        shifted, table = single, _table()
        for _ in range(_BLOCK):
            shifted = table[shifted & 0xFF] ^ (shifted >> np.uint32(8))
    return shifted.reshape(4, 256)
