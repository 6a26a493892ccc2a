"""Nested containers of numpy arrays as PyTorch's own files; `dioscuri.checkpoint.torch_files` reads these."""

import io
from typing import Any

import numpy as np
import torch


def torch_bytes(payload: Any) -> bytes:
    """A PyTorch file of nested containers with arrays as tensors, each in separate memory."""

    def to_torch(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return torch.from_numpy(value.copy())
        if isinstance(value, dict):
            return type(value)((key, to_torch(entry)) for key, entry in value.items())
        return [to_torch(entry) for entry in value] if isinstance(value, list) else value

    buffer = io.BytesIO()
    torch.save(to_torch(payload), buffer)
    return buffer.getvalue()
