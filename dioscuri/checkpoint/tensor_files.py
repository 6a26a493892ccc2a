"""Weights as their authors publish them, one file or a folder with `config.json`, as numpy arrays."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import yaml

from dioscuri.checkpoint.flax_msgpack import flatten, read_flax
from dioscuri.errors import UserError

ReadTorch = Callable[[Path], Any]
Arrays = dict[str, np.ndarray]

WEIGHTS = (
    "model.safetensors",
    "diffusion_pytorch_model.safetensors",
    "pytorch_model.safetensors",
    "pytorch_model.bin",
    "diffusion_pytorch_model.bin",
)
"""Names that a folder's weights have, the preferred one first."""

WRAPPERS = ("state_dict", "model_state_dict", "model", "params", "net")
"""Entries under which checkpoints keep their weights; SUNDAE's trainer calls them `net`."""

_DTYPES = {
    **{f"F{8 * n}": np.dtype(f"<f{n}") for n in (2, 4, 8)},
    **{f"I{8 * n}": np.dtype(f"<i{n}") for n in (1, 2, 4, 8)},
    **{f"U{8 * n}": np.dtype(f"<u{n}") for n in (1, 2, 4, 8)},
    "BOOL": np.dtype(bool),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}


def weights_file(source: Path) -> Path:
    """The file itself, or that of a folder; a `UserError` where there is none."""
    if not source.is_dir():
        return source
    found = [source / name for name in WEIGHTS if (source / name).is_file()]
    if not found:
        raise UserError(f"{source} holds no weights: none of {', '.join(WEIGHTS)}")
    return found[0]


def read_weights(file: Path, read_torch: ReadTorch) -> Arrays:
    """Arrays by name, floating ones as float32; a flax file's names are joined by '/'.

    The kind of file shows in its first bytes. A `UserError` where it is none of safetensors, PyTorch and
    flax msgpack, is truncated, or holds no arrays.
    """
    try:
        with file.open("rb") as opened:
            head = opened.read(9)
    except OSError as error:
        raise UserError(f"weights {file} cannot be read: {error.strerror}") from error
    if head[8:9] == b"{":
        return _as_float32(read_safetensors(file))
    if head.startswith(b"PK") or (head[:1] == b"\x80" and head[1:2] in b"\2\3\4\5"):
        return _as_float32(_unwrapped(read_torch(file), file))
    if head and (0x81 <= head[0] <= 0x8F or head[0] in (0xDE, 0xDF)):
        tree = read_flax(file)
        return _as_float32(flatten(tree.get("params", tree), file))
    raise UserError(f"{file} holds no weights: it is no safetensors, PyTorch or flax msgpack file, or empty")


def read_safetensors(file: Path) -> Arrays:
    """Arrays of a safetensors file, bfloat16 ones too; a `UserError` where it is damaged."""
    content = file.read_bytes()
    try:
        start = 8 + int.from_bytes(content[:8], "little")
        header = json.loads(content[8:start])
        header.pop("__metadata__", None)
        return {name: _array(entry, memoryview(content)[start:]) for name, entry in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{file} is truncated or no safetensors file: {error}") from error


def read_config(file: Path) -> dict[str, Any]:
    """A configuration in JSON or YAML; a `UserError` where it is neither or no mapping."""
    try:
        text = file.read_text(encoding="utf-8")
        value = json.loads(text) if file.suffix == ".json" else yaml.load(text, _Loader)
    except OSError as error:
        raise UserError(f"configuration {file} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"configuration {file} is no sound {file.suffix[1:] or 'YAML'}: {reason}") from error
    if not isinstance(value, dict):
        raise UserError(f"configuration {file} is no mapping from options to values")
    return value


class _Loader(yaml.SafeLoader):
    """Reads `1e-4` as a number, which YAML 1.1 takes for text for want of a dot."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(?:\.\d*)?[eE][-+]?\d+"), list("-+0123456789")
)


def _array(entry: Mapping[str, Any], data: memoryview) -> np.ndarray:
    first, last = entry["data_offsets"]
    dtype, shape = _DTYPES[entry["dtype"]], entry["shape"]
    if not 0 <= first <= last <= len(data):
        raise ValueError("tensors lie behind the file's end")
    return np.frombuffer(data[first:last], dtype).reshape(shape)


def _unwrapped(content: Any, file: Path) -> Arrays:
    """The weights of a checkpoint, which may hold more beside them."""
    while isinstance(content, Mapping):
        inner = [content[name] for name in WRAPPERS if isinstance(content.get(name), Mapping)]
        if not inner:
            break
        content = inner[0]
    if not isinstance(content, Mapping) or not any(isinstance(v, np.ndarray) for v in content.values()):
        raise UserError(f"{file} holds no weights by name")
    strange = [name for name, value in content.items() if not isinstance(value, np.ndarray)]
    if strange:
        raise UserError(f"{file}: '{strange[0]}' is no tensor, so these are no weights by name")
    return dict(content)


def _as_float32(arrays: Arrays) -> Arrays:
    floating = {name for name, array in arrays.items() if array.dtype.kind == "f"} | {
        name for name, array in arrays.items() if array.dtype == ml_dtypes.bfloat16
    }
    return {name: array.astype(np.float32) if name in floating else array for name, array in arrays.items()}
