"""PyTorch's checkpoints as nested containers of numpy arrays, and back: nothing but weights is unpickled."""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dioscuri.errors import UserError


def read_torch(path: Path) -> Any:
    """Read a PyTorch file into nested containers of numpy arrays; nothing but weights is unpickled.

    A `UserError` says that the file is truncated or holds anything else. bfloat16, which numpy lacks, and
    float16 become float32. Objects by which trainers describe themselves become empty ones.
    """

    def to_numpy(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            narrow = value.dtype in (torch.bfloat16, torch.float16)
            return (value.float() if narrow else value).contiguous().numpy()
        if isinstance(value, Mapping):
            return {key: to_numpy(entry) for key, entry in value.items()}
        return [to_numpy(entry) for entry in value] if isinstance(value, list) else value

    try:
        with torch.serialization.safe_globals(_inert_globals(path)):
            return to_numpy(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # the reader meets foreign bytes: what it raises is not documented
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise UserError(f"checkpoint {path} is truncated or holds more than weights: {reason}") from error


class _Inert:
    """Stands for an object of a trainer; takes whatever that one was made of, and does nothing."""

    def __init__(self, *_arguments: object) -> None:
        pass

    def __setstate__(self, _state: object) -> None:
        pass


def _inert_globals(path: Path) -> list[Any]:
    """Pairs of `_Inert` and the name of a trainer's class or function that the file refers to."""
    trainers = ("pytorch_lightning.", "lightning.", "argparse.Namespace")
    if not zipfile.is_zipfile(path):
        return []
    named = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    return [(_Inert, name) for name in named if name.startswith(trainers)]


def torch_bytes(payload: Any) -> bytes:
    """A PyTorch file of nested containers whose arrays have become tensors, each with memory of its own."""

    def to_torch(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return torch.from_numpy(value.copy())
        if isinstance(value, dict):
            return type(value)((key, to_torch(entry)) for key, entry in value.items())
        return [to_torch(entry) for entry in value] if isinstance(value, list) else value

    buffer = io.BytesIO()
    torch.save(to_torch(payload), buffer)
    return buffer.getvalue()
