"""Messages `tf.train.Example`, read and written without TensorFlow (protocol buffers' wire format).

Example { features: Features = 1 }          Features { feature: map<string, Feature> = 1 }
Feature { bytes_list = 1 | float_list = 2 | int64_list = 3 }, each { value: repeated = 1 }
"""

import struct
from collections.abc import Iterator, Mapping, Sequence

Values = list[bytes] | list[float] | list[int]
Features = dict[str, Values]
Content = bytes | int | float

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_VARINT = 10


class NotAnExampleError(Exception):
    """Bytes are not a `tf.train.Example`; the text says why."""


def decode(data: bytes) -> Features:
    """The features of a message by name; raises `NotAnExampleError`."""
    decoded: Features = {}
    for number, features in _fields(data):
        if number == 1 and isinstance(features, bytes):
            for entry_number, entry in _fields(features):
                if entry_number == 1 and isinstance(entry, bytes):
                    parts = dict(_fields(entry))
                    key, value = parts.get(1, b""), parts.get(2, b"")
                    if not isinstance(key, bytes) or not isinstance(value, bytes):
                        raise NotAnExampleError("a feature has no name and value")
                    decoded[key.decode("utf-8", "replace")] = _values(value)
    if not decoded:
        raise NotAnExampleError("it has no features")
    return decoded


def encode(features: Mapping[str, Sequence[bytes] | Sequence[int]]) -> bytes:
    """A message of bytes and int64 features, in the order of their names."""
    entries = b""
    for name in sorted(features):
        values = features[name]
        if values and isinstance(values[0], bytes):
            feature = _field(1, b"".join(_field(1, bytes(value)) for value in values))
        else:
            packed = b"".join(_varint(int(value) & 0xFFFFFFFFFFFFFFFF) for value in values)
            feature = _field(3, _field(1, packed) if packed else b"")
        entries += _field(1, _field(1, name.encode()) + _field(2, feature))
    return _field(1, entries)


def _values(feature: bytes) -> Values:
    """Values of a Feature; an empty one has none."""
    for number, content in _fields(feature):
        if not isinstance(content, bytes):
            raise NotAnExampleError("a feature is no list")
        items = [item for kind, item in _fields(content) if kind == 1]
        if number == 1:
            return [item for item in items if isinstance(item, bytes)]
        if number == 2:
            return [value for item in items for value in _floats(item)]
        if number == 3:
            return [value for item in items for value in _integers(item)]
    return []


def _floats(item: Content) -> tuple[float, ...]:
    if isinstance(item, float):
        return (item,)
    if isinstance(item, int):
        raise NotAnExampleError("a list of floats holds numbers of another kind")
    if len(item) % 4:
        raise NotAnExampleError("a list of numbers is cut short")
    return struct.unpack(f"<{len(item) // 4}f", item)


def _integers(item: Content) -> Iterator[int]:
    if isinstance(item, int):
        yield _signed(item)
        return
    if isinstance(item, float):
        raise NotAnExampleError("a list of integers holds numbers of another kind")
    at = 0
    while at < len(item):
        value, at = _read_varint(item, at)
        yield _signed(value)


def _fields(data: bytes) -> Iterator[tuple[int, Content]]:
    """(number, content) of every field of a message; a fixed 32-bit field is a float."""
    at = 0
    while at < len(data):
        tag, at = _read_varint(data, at)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            value, at = _read_varint(data, at)
            yield number, value
            continue
        if kind == _BYTES:
            size, at = _read_varint(data, at)
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
        else:
            raise NotAnExampleError(f"byte {at} begins no field")
        if size > len(data) - at:
            raise NotAnExampleError("a field is longer than the message")
        content = data[at : at + size]
        if kind == _BYTES:
            yield number, content
        elif kind == _FIXED32:
            yield number, struct.unpack("<f", content)[0]
        else:
            yield number, int.from_bytes(content, "little")
        at += size


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for n, byte in enumerate(data[at : at + _MAX_VARINT]):
        value |= (byte & 0x7F) << 7 * n
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at + n + 1
    raise NotAnExampleError("a number is cut short")


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | _BYTES) + _varint(len(content)) + content
