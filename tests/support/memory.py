"""Bytes of the arrays that a framework holds, whatever a process's allocator keeps beside them."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Held:
    """Set at the end of `watched`: bytes held then that were not held at its start."""

    nbytes = 0


@contextmanager
def watched(twin: str) -> Iterator[Held]:
    """What a block leaves behind. Older objects, millions after some tests, are set aside meanwhile."""
    gc.freeze()
    try:
        held, before = Held(), _arrays(twin)
        yield held
        gc.collect()
        held.nbytes = sum(n for key, (_, n) in _arrays(twin).items() if key not in before)
    finally:
        gc.unfreeze()


def _arrays(twin: str) -> dict[int, tuple[Any, int]]:
    """Memory by address, which tensors may share, and its bytes. While held, an address stays the same."""
    return _tensors() if twin == "torch" else _jax_arrays()


def _tensors() -> dict[int, tuple[Any, int]]:
    import torch

    storages = [
        value.untyped_storage() for value in gc.get_objects() if issubclass(type(value), torch.Tensor)
    ]
    return {storage.data_ptr(): (storage, storage.nbytes()) for storage in storages if storage.data_ptr()}


def _jax_arrays() -> dict[int, tuple[Any, int]]:
    import jax

    return {id(array): (array, array.nbytes) for array in jax.live_arrays()}
