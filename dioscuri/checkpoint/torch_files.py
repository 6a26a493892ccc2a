"""PyTorch's own files, as nested containers of numpy arrays.

The PyTorch twin reads and writes them, imported when it is needed, whichever twin asks.
"""

from pathlib import Path
from typing import Any

from dioscuri.twins import twin_module


def read_torch(path: Path) -> Any:
    """Read a PyTorch file; nothing but weights is unpickled. float16 and bfloat16 become float32.

    A `UserError` where the file is truncated or holds anything else, or PyTorch is not installed.
    """
    return twin_module("torch", "torch_files").read_torch(path)


def torch_bytes(payload: Any) -> bytes:
    """A PyTorch file of nested containers of arrays; a `UserError` where PyTorch is not installed."""
    content: bytes = twin_module("torch", "torch_files").torch_bytes(payload)
    return content
