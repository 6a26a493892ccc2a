"""Files of `torch.save` as numpy arrays, read without torch, so that users of JAX alone can
open them. Writing needs PyTorch.

A file is a pickle whose persistent identifiers name storages, raw memory outside it: members of a zip archive
or, before version 1.6 of torch, the bytes after the pickle. Only the functions below can be called, and no
tensor may exceed its storage.
"""

import re
import zipfile
from collections.abc import Callable
from io import SEEK_CUR, BytesIO
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from dioscuri.errors import UserError
from dioscuri.files import check_plain
from dioscuri.pickles import PLAIN, Dictionary, Foreign, Function, Inert, plain, read_pickle
from dioscuri.twins import twin_module

MAX_EXPANDED = 1 << 24
"""Total number of values by which tensors may exceed their storages."""

_DTYPES = {
    "Float": np.dtype("<f4"), "Double": np.dtype("<f8"), "Half": np.dtype("<f2"), "Long": np.dtype("<i8"),
    "Int": np.dtype("<i4"), "Short": np.dtype("<i2"), "Char": np.dtype("<i1"), "Byte": np.dtype("<u1"),
    "Bool": np.dtype(bool), "ComplexFloat": np.dtype("<c8"), "ComplexDouble": np.dtype("<c16"),
    "BFloat16": np.dtype(ml_dtypes.bfloat16), "Untyped": np.dtype("<u1"),
    "UInt16": np.dtype("<u2"), "UInt32": np.dtype("<u4"), "UInt64": np.dtype("<u8"),
}  # fmt: skip
_OF_TENSORS = {
    "float32": "Float", "float64": "Double", "float16": "Half", "bfloat16": "BFloat16", "int64": "Long",
    "int32": "Int", "int16": "Short", "int8": "Char", "uint8": "Byte", "bool": "Bool",
    "complex64": "ComplexFloat", "complex128": "ComplexDouble",
    "uint16": "UInt16", "uint32": "UInt32", "uint64": "UInt64",
}  # fmt: skip
_STORAGE = re.compile(r"torch\.(?:cuda\.|storage\.)?(\w+)Storage")
_TRAINERS = (
    *("pytorch_lightning.", "lightning.", "argparse.Namespace", "omegaconf.", "easydict.", "ml_collections."),
    *("pathlib.", "typing.", "torch.device", "torch.torch_version.", "torch.serialization._get_layout"),
    *("copyreg._reconstructor", "copy_reg._reconstructor"),
    *(
        f"{m}.{kind}"
        for m in ("builtins", "__builtin__")
        for kind in ("object", "list", "dict", "set", "int")
    ),
)
"""Names of trainers' objects, which are ignored."""
_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001


class _Storage:
    """Raw memory of tensors; `values` has one dimension."""

    __slots__ = ("values",)

    def __init__(self, values: np.ndarray) -> None:
        self.values = values


class _Names(dict[str, Any]):
    """Meanings of the names in a torch file; with `dry`, tensors are ignored."""

    def __init__(self, *, dry: bool = False) -> None:
        self.dry, self.expanded = dry, 0
        tensor = Function(self._tensor)
        super().__init__(
            PLAIN
            | {
                "collections.OrderedDict": Dictionary,
                "collections.defaultdict": Function(lambda *_: Dictionary()),
                "collections.Counter": Dictionary,
                "torch._utils._rebuild_tensor": tensor,
                "torch._utils._rebuild_tensor_v2": tensor,
                "torch._utils._rebuild_tensor_v3": Function(self._tensor_of_type),
                "torch._utils._rebuild_parameter": Function(lambda array, *_: array),
                "torch._utils._rebuild_parameter_with_state": Function(lambda array, *_: array),
                "torch._tensor._rebuild_from_type_v2": Function(
                    lambda call, _type, arguments, _state: call(*arguments)
                ),
                "torch.Size": Function(tuple),
                "torch.nn.parameter.Parameter": Inert,
                "torch.Tensor": Inert,
            }
            | {f"torch.{name}": _DTYPES[kind] for name, kind in _OF_TENSORS.items()}
        )

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or bool(_STORAGE.fullmatch(str(name)))

    def __missing__(self, name: str) -> np.dtype:
        """The dtype of a storage class."""
        kind = _STORAGE.fullmatch(name)
        dtype: np.dtype | None = _DTYPES.get(kind[1]) if kind else None
        if dtype is None:
            raise Foreign(f"it holds a {name}, whose values are not read here")
        return dtype

    def _tensor(self, storage: Any, offset: Any, shape: Any, strides: Any, *_: object) -> np.ndarray:
        """A view of its storage, without allocation."""
        if self.dry:
            return np.zeros(0)
        values = storage.values
        numbers = (offset, *shape, *strides)
        if (
            len(shape) != len(strides)
            or len(shape) > 32
            or not all(type(n) is int and n >= 0 for n in numbers)
        ):
            raise Foreign(f"a tensor of shape {tuple(shape)} has strides {tuple(strides)}")
        size = prod(shape)
        last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
        if size and last >= len(values):
            raise Foreign(f"a tensor of shape {tuple(shape)} extends past the end of its storage")
        self.expanded += max(0, size - len(values))
        if self.expanded > MAX_EXPANDED:
            raise Foreign(f"a tensor of shape {tuple(shape)} is larger than its storage")
        if not size:
            return np.zeros(shape, values.dtype)
        steps = [step * values.itemsize for step in strides]
        return np.lib.stride_tricks.as_strided(values[offset:], shape, steps, writeable=False)

    def _tensor_of_type(self, storage: Any, *place: Any) -> np.ndarray:
        """Of an untyped storage; `place`: offset, shape, strides, two things of training, dtype."""
        return self._tensor(_Storage(storage.values.view(place[5])), *place[:3])


def read_torch(path: Path) -> Any:
    """Nested containers of numpy arrays, views of the file's storages; a `UserError` says what is wrong.

    float16 and bfloat16 are not converted. Trainers' objects become `dioscuri.pickles.Inert`.
    """
    try:
        check_plain(path)
        with path.open("rb") as stream:
            if zipfile.is_zipfile(stream):
                return plain(_read_archive(path), strict=False)
            stream.seek(0)
            return plain(_read_stream(stream), strict=False)
    except OSError as error:
        raise UserError(f"checkpoint {path} cannot be read: {error.strerror or error}") from error
    except (Foreign, zipfile.BadZipFile, ValueError, EOFError, RuntimeError) as error:
        raise UserError(f"checkpoint {path} is truncated or holds more than weights: {error}") from error


def torch_bytes(payload: Any) -> bytes:
    """A PyTorch file of nested containers of arrays; a `UserError` if PyTorch is not installed."""
    content: bytes = twin_module("torch", "torch_files").torch_bytes(payload)
    return content


def _read_archive(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        members = {member.filename: member for member in archive.infolist()}
        size = sum(member.file_size for member in members.values())
        if size > path.stat().st_size or any(member.compress_type for member in members.values()):
            raise Foreign("its members are compressed, which torch.save never does")
        roots = [name.removesuffix("data.pkl") for name in members if re.fullmatch(r"(.*/)?data\.pkl", name)]
        if len(roots) != 1:
            raise Foreign("there is no data.pkl in it")
        if f"{roots[0]}byteorder" in members and archive.read(f"{roots[0]}byteorder") != b"little":
            raise Foreign("it was written on a big-endian machine")
        stream = BytesIO(archive.read(f"{roots[0]}data.pkl"))
        return read_pickle(
            stream,
            _Names(),
            _storages(lambda key, size: _whole(archive.read(f"{roots[0]}data/{key}"), size)),
            _TRAINERS,
        )


def _read_stream(stream: BinaryIO) -> Any:
    """The layout before 1.6: pickles of a magic number, a version, the machine, the object and the keys of
    its storages, then the storages, each preceded by its length."""
    if [read_pickle(stream, {}) for _ in range(3)][:2] != [_MAGIC, _VERSION]:
        raise Foreign("it is no file of torch.save")
    start, sizes = stream.tell(), dict[str, int]()

    def note(key: str, size: int) -> bytes:
        sizes[key] = size
        return b""

    read_pickle(stream, _Names(dry=True), _storages(note), _TRAINERS)
    content: dict[str, bytes] = {}
    keys, memory = read_pickle(stream, {}), BytesIO(stream.read())
    if not isinstance(keys, list) or set(keys) != set(sizes):
        raise Foreign("its storages are not those of its tensors")
    for key in keys:
        memory.seek(8, SEEK_CUR)
        content[key] = _whole(memory.read(sizes[key]), sizes[key])
    stream.seek(start)
    return read_pickle(stream, _Names(), _storages(lambda key, _: content[key]), _TRAINERS)


def _whole(content: bytes, size: int) -> bytes:
    if len(content) != size:
        raise Foreign(f"a storage of {size} bytes has {len(content)}")
    return content


def _storages(read: Callable[[str, int], bytes]) -> Callable[[Any], _Storage]:
    """A function from a persistent identifier to its storage; `read` takes a key and a number of bytes."""
    known: dict[str, bytes] = {}

    def load(pid: Any) -> _Storage:
        kind, dtype, key, _, length, *view = pid
        has_length = isinstance(length, int) and length >= 0
        if kind != "storage" or not isinstance(dtype, np.dtype) or not has_length or any(view):
            raise Foreign("it refers to a storage of another kind")
        if key not in known:
            known[key] = read(str(key), length * dtype.itemsize)
        return _Storage(np.frombuffer(known[key], dtype))

    return load
