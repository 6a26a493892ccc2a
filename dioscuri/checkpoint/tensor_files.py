"""Published weights, in one file or a folder with `config.json`, as numpy arrays."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
import yaml
from safetensors import SafetensorError

from dioscuri.checkpoint.flax_msgpack import read_flax
from dioscuri.checkpoint.state_dicts import weights_of
from dioscuri.checkpoint.torch_files import read_torch
from dioscuri.checkpoint.weight_files import Choice, weights_files
from dioscuri.errors import UserError, shorten
from dioscuri.files import check_plain

Arrays = dict[str, np.ndarray]

MAX_CONFIG_BYTES, MAX_CONFIG_NODES = 1 << 18, 100_000
_MAX_SHARED = 4
"""Factor by which tensors that share memory may exceed the size of their file."""

_DTYPES = {
    **{f"F{8 * n}": np.dtype(f"<f{n}") for n in (2, 4, 8)},
    **{f"I{8 * n}": np.dtype(f"<i{n}") for n in (1, 2, 4, 8)},
    **{f"U{8 * n}": np.dtype(f"<u{n}") for n in (1, 2, 4, 8)},
    "BOOL": np.dtype(bool),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
}


@dataclass(frozen=True)
class Weights:
    """Arrays by name, floating ones as float32; the file or folder; and a note
    on which weights were taken."""

    arrays: Arrays
    source: Path
    note: str


def read_weights(source: Path, choice: Choice | None = None) -> Weights:
    """The weights of a file, or of a folder's file or shards; names of a flax file are joined by '/'.

    If there are averaged and raw weights, the averaged ones are taken unless `choice` is "raw". A file's kind
    is recognised by its first bytes. A `UserError` if it is not safetensors, PyTorch or flax msgpack, is
    damaged, or holds no named arrays.
    """
    files = weights_files(source, choice or "average")
    contents = [_read(file) for file in files]
    content = contents[0] if len(contents) == 1 else {k: v for shard in contents for k, v in shard.items()}
    where = files[0] if len(files) == 1 else source
    arrays, note = weights_of(content, where, choice)
    size = sum(file.stat().st_size for file in files)
    if sum(array.nbytes for array in arrays.values()) > _MAX_SHARED * size:
        raise UserError(f"{where}: its tensors share memory and are together far larger than the file")
    return Weights({name: _float32(array) for name, array in arrays.items()}, where, note)


def _read(file: Path) -> dict[str, Any]:
    try:
        check_plain(file)
        with file.open("rb") as opened:
            head = opened.read(9)
    except OSError as error:
        raise UserError(f"weights {file} cannot be read: {error.strerror}") from error
    if head[8:9] == b"{":
        return read_safetensors(file)
    if is_torch(head):
        content = read_torch(file)
        if isinstance(content, dict):
            return content
        raise UserError(f"{file} holds no named weights")
    if is_flax(head):
        return read_flax(file)
    raise UserError(
        f"{file} holds no weights: it is empty, or not a safetensors, PyTorch or flax msgpack file"
    )


def is_torch(head: bytes) -> bool:
    """Whether a file begins like one of `torch.save`."""
    return head.startswith(b"PK") or (head[:1] == b"\x80" and head[1:2] in b"\2\3\4\5")


def is_flax(head: bytes) -> bool:
    """Whether a file begins like flax's, with a map."""
    return bool(head) and (0x81 <= head[0] <= 0x8F or head[0] in (0xDE, 0xDF))


def read_safetensors(file: Path) -> Arrays:
    """Arrays of a safetensors file, even of types that numpy lacks; a `UserError` if it is damaged."""
    try:
        tensors = safetensors.deserialize(file.read_bytes())  # safetensors.numpy has no bfloat16
        return {
            name: np.frombuffer(entry["data"], _DTYPES[entry["dtype"]]).reshape(entry["shape"])
            for name, entry in tensors
        }
    except OSError as error:
        raise UserError(f"weights {file} cannot be read: {error.strerror}") from error
    except (SafetensorError, ValueError, KeyError) as error:
        raise UserError(f"{file} is truncated or not a safetensors file: {error}") from error


def read_config(file: Path) -> dict[str, Any]:
    """A configuration in JSON or YAML; a `UserError` if it is neither, not a mapping, or absurdly large."""
    try:
        check_plain(file)
        if file.stat().st_size > MAX_CONFIG_BYTES:
            raise UserError(f"configuration {file} is too large: more than {MAX_CONFIG_BYTES:,} bytes")
        text = file.read_text(encoding="utf-8")
        value = json.loads(text) if file.suffix == ".json" else _Loader(text).read()
    except OSError as error:
        raise UserError(f"configuration {file} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"configuration {file} is not valid {file.suffix[1:] or 'YAML'}: {reason}") from error
    if not isinstance(value, dict):
        raise UserError(f"configuration {file} is not a mapping from options to values")
    return value


def config_flag(config: Mapping[str, Any], name: str) -> bool:
    """Whether an option is true; it may be missing or null. A `UserError` if it is anything else than true or
    false, such as the text "false"."""
    value = config.get(name)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise UserError(f"the configuration's {name} must be true or false, not {shorten(repr(value))}")
    return value


class _Loader(yaml.SafeLoader):
    """Reads `1e-4` as a number (in YAML 1.1, without a dot, it is text), and limits the number of nodes."""

    def read(self) -> Any:
        """The document; a `ValueError` if its aliases expand to too much data."""
        node = self.get_single_node()
        if node is None:
            return None
        if self._nodes(node, {}) > MAX_CONFIG_NODES:
            raise ValueError("its aliases expand to too much data")
        return self.construct_document(node)

    def _nodes(self, node: yaml.Node, known: dict[int, int]) -> int:
        """Number of nodes below this one, counting an alias's at every place."""
        if isinstance(node, yaml.ScalarNode):
            return 1
        if id(node) not in known:
            known[id(node)] = MAX_CONFIG_NODES  # within itself
            pairs = isinstance(node, yaml.MappingNode)
            inside = [child for pair in node.value for child in pair] if pairs else node.value
            known[id(node)] = 1 + sum(self._nodes(child, known) for child in inside)
        return known[id(node)]


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(?:\.\d*)?[eE][-+]?\d+"), list("-+0123456789")
)


def _float32(array: np.ndarray) -> np.ndarray:
    floating = array.dtype.kind == "f" or array.dtype.name.startswith(("bfloat", "float"))
    return array.astype(np.float32, copy=False) if floating else array
