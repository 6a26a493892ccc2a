"""Reader of flax's msgpack serialisation (`flax.serialization.msgpack_serialize`), without flax.

The file is nested maps with string keys. Leaves are extension types: 1 an array `[shape, dtype name, bytes]`,
2 a complex number `[real, imaginary]`, 3 a numpy scalar, packed as an array. Arrays above flax's chunk size
are maps of flat chunks. Memory is bounded by a small multiple of the file's size, nesting by `MAX_DEPTH`.
"""

from math import prod
from pathlib import Path
from typing import Any

import msgpack
import numpy as np

from dioscuri.errors import UserError, kind_of
from dioscuri.files import plain_bytes

MAX_DEPTH = 32
_ARRAY, _COMPLEX, _SCALAR = 1, 2, 3
_CHUNKED = "__msgpack_chunked_array__"
_DTYPES = {
    name: np.dtype(name).newbyteorder("<")
    for name in (
        *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
        *("float16", "float32", "float64", "complex64", "complex128"),
    )
}


def read_flax(path: Path) -> dict[str, Any]:
    """Read a file into nested dicts of arrays; a `UserError` if it is missing, truncated or foreign."""
    try:
        content = plain_bytes(path)
    except OSError as error:
        raise UserError(f"checkpoint {path} cannot be read: {error.strerror}") from error
    try:
        tree = msgpack.unpackb(content, ext_hook=_leaf, max_ext_len=len(content))
        joined = _join_chunks(tree, MAX_DEPTH) if isinstance(tree, dict) else None
        if not isinstance(joined, dict):
            raise ValueError("the outermost value is no map")
        return joined
    except (ValueError, TypeError, msgpack.exceptions.UnpackException) as error:
        reason = str(error) or type(error).__name__
        raise UserError(f"checkpoint {path} is truncated or not a flax msgpack file: {reason}") from error


def flatten(tree: dict[str, Any], where: object) -> dict[str, np.ndarray]:
    """Nested dicts -> arrays by path, joined by `/`; a `UserError` names a leaf that is not an array."""
    flat: dict[str, np.ndarray] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat.update({f"{name}/{path}": array for path, array in flatten(value, where).items()})
        elif isinstance(value, np.ndarray):
            flat[name] = value
        else:
            raise UserError(f"{where}: '{name}' is {kind_of(value)}, not an array")
    return flat


def _leaf(code: int, data: bytes) -> Any:
    if code == _COMPLEX:
        real, imaginary = msgpack.unpackb(data)
        return complex(real, imaginary)
    if code not in (_ARRAY, _SCALAR):
        raise ValueError(f"extension type {code} is not one of flax's")
    shape, dtype_name, buffer = msgpack.unpackb(data)
    if dtype_name not in _DTYPES:
        raise ValueError(f"dtype {dtype_name!r} is not supported")
    dtype = _DTYPES[dtype_name]
    _check_shape(shape)
    if not isinstance(buffer, bytes) or prod(shape) * dtype.itemsize != len(buffer):
        raise ValueError(f"an array of shape {shape} does not have the size of its buffer")
    return np.frombuffer(buffer, dtype).astype(dtype.newbyteorder("="), copy=True).reshape(shape)


def _join_chunks(tree: dict[str, Any], depth: int) -> Any:
    if depth == 0:
        raise ValueError(f"maps are nested deeper than {MAX_DEPTH}")
    if _CHUNKED in tree:
        return _array_of_chunks(tree)
    return {
        name: _join_chunks(value, depth - 1) if isinstance(value, dict) else value
        for name, value in tree.items()
    }


def _array_of_chunks(tree: dict[str, Any]) -> np.ndarray:
    shape, chunks = _in_order(tree.get("shape")), _in_order(tree.get("chunks"))
    _check_shape(shape)
    if not chunks or not all(isinstance(chunk, np.ndarray) and chunk.ndim == 1 for chunk in chunks):
        raise ValueError("a chunked array has no chunks")
    flat = np.concatenate(chunks)
    if flat.size != prod(shape):
        raise ValueError(f"the chunks of an array of shape {shape} hold {flat.size} values")
    return flat.reshape(shape)


def _in_order(value: object) -> list:
    """The items of a tuple, which flax writes as a map from '0', '1', ..., older versions as a list."""
    if isinstance(value, dict):
        return [value[str(i)] for i in range(len(value)) if str(i) in value]
    if isinstance(value, list):
        return value
    raise ValueError("a chunked array lacks its shape or chunks")


def _check_shape(shape: object) -> None:
    sides = shape if isinstance(shape, list) and len(shape) <= MAX_DEPTH else [None]
    if not all(type(side) is int and 0 <= side < 2**31 for side in sides):
        raise ValueError(f"{shape!r} is no shape")
