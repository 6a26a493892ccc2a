"""The layout of the flat vector of all parameters, on which the optimiser works."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np

from dioscuri.errors import UserError


@dataclass(frozen=True)
class Slot:
    """One tensor of the vector: canonical name and shape, and the order of its axes in memory.

    Of a vector in `shards` equal rows, each row holds a share of the tensor, from column `start` on; zeros
    fill the last share.
    """

    name: str
    shape: tuple[int, ...]
    axes: tuple[int, ...]
    start: int
    shards: int = 1

    @property
    def stop(self) -> int:
        """Index after the tensor's last value."""
        return self.start + -(-prod(self.shape) // self.shards)

    @property
    def fill(self) -> int:
        """Number of zeros after the tensor's values."""
        return (self.stop - self.start) * self.shards - prod(self.shape)

    @cached_property
    def memory_shape(self) -> tuple[int, ...]:
        """Shape of the tensor in the vector's order of axes."""
        return tuple(self.shape[axis] for axis in self.axes)

    @cached_property
    def inverse_axes(self) -> tuple[int, ...]:
        """Permutation from the vector's order of axes to the canonical one."""
        return tuple(int(axis) for axis in np.argsort(self.axes))


@dataclass(frozen=True)
class Layout:
    """Slots in order; those with weight decay come first and make up the first `n_decayed` values (of each
    row, if the vector has `shards` rows)."""

    slots: tuple[Slot, ...]
    n_decayed: int
    shards: int = 1

    @property
    def size(self) -> int:
        """Number of values of the vector, or of a row."""
        return self.slots[-1].stop

    @property
    def vector_shape(self) -> tuple[int, ...]:
        """(size,), or (shards, size)."""
        return (self.size,) if self.shards == 1 else (self.shards, self.size)


def make_layout(
    shapes: Mapping[str, tuple[int, ...]],
    decayed: Callable[[str], bool],
    memory_axes: Callable[[str, tuple[int, ...]], tuple[int, ...]],
    shards: int = 1,
) -> Layout:
    """Lay the tensors out one after the other; `memory_axes(name, shape)` orders a tensor's axes. With
    `shards`, the vector has as many rows, which devices can hold."""
    slots: list[Slot] = []
    start = n_decayed = 0
    for decays in (True, False):
        for name, shape in shapes.items():
            if decayed(name) is decays:
                slots.append(Slot(name, tuple(shape), memory_axes(name, tuple(shape)), start, shards))
                start = slots[-1].stop
        n_decayed = start if decays else n_decayed
    return Layout(tuple(slots), n_decayed, shards)


def spans(layout: Layout, chosen: Callable[[str], bool]) -> list[tuple[int, bool]]:
    """Consecutive spans of the vector: length, and whether its tensors are chosen."""
    runs: list[tuple[int, bool]] = []
    for slot in layout.slots:
        n, is_chosen = slot.stop - slot.start, bool(chosen(slot.name))
        if runs and runs[-1][1] is is_chosen:
            n += runs.pop()[0]
        runs.append((n, is_chosen))
    return runs


def pack(arrays: Mapping[str, np.ndarray], layout: Layout, dtype: np.dtype | type) -> np.ndarray:
    """Canonical tensors -> vector (size,) or (shards, size). A `UserError` names the first tensor that does
    not fit."""
    check_tensors(arrays, layout)
    flat = np.empty(layout.vector_shape, dtype)
    for slot in layout.slots:
        values, target = arrays[slot.name].transpose(slot.axes), flat[..., slot.start : slot.stop]
        if flat.ndim == 1:
            target.reshape(values.shape)[...] = values  # a view: large tensors are not copied twice
        else:
            target[...] = np.pad(values.reshape(-1), (0, slot.fill)).reshape(target.shape)
    return flat


def unpack(flat: np.ndarray, layout: Layout, prefix: str = "") -> dict[str, np.ndarray]:
    """Vector (size,) or (shards, size) -> contiguous copies of the tensors, under `prefix` + canonical
    name."""
    tensors = {}
    for slot in layout.slots:
        values = flat[..., slot.start : slot.stop].reshape(-1)[: prod(slot.shape)]
        tensor = values.reshape(slot.memory_shape).transpose(slot.inverse_axes)
        tensors[prefix + slot.name] = np.array(tensor, order="C")
    return tensors


def take_prefixed(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """Remove the arrays whose names have a prefix; returns them under the names without it."""
    return {name.removeprefix(prefix): arrays.pop(name) for name in list(arrays) if name.startswith(prefix)}


def check_tensors(arrays: Mapping[str, np.ndarray], layout: Layout) -> None:
    """Raise a `UserError` for the first tensor that is missing, unknown or of the wrong shape."""
    check_shapes(arrays, {slot.name: slot.shape for slot in layout.slots})


def check_shapes(arrays: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """The same for tensors that have no layout."""
    _complain_of_first((name for name in shapes if name not in arrays), "is missing from the state")
    _complain_of_first(
        (name for name in arrays if name not in shapes), "of the state is unknown to this architecture"
    )
    for name, shape in shapes.items():
        if arrays[name].shape != shape:
            raise UserError(
                f"tensor '{name}' of the state has shape {arrays[name].shape}, but this architecture has "
                f"{shape}: the state belongs to another configuration"
            )


def _complain_of_first(names: Iterable[str], complaint: str) -> None:
    for name in names:
        raise UserError(f"tensor '{name}' {complaint}: the state belongs to another configuration")
