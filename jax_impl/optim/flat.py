"""All parameters in one vector: it is split into the model's tree, gradients are joined into another."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from dioscuri.plans.layout import Layout, Slot, make_layout

LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight"}
"""Parameters whose names differ in checkpoints."""


@dataclass(frozen=True)
class Tree:
    """The model's tree of parameters: its structure, and each leaf's canonical name and shape."""

    structure: Any
    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]


def canonical_name(path: Sequence[Any]) -> str:
    """Name of a parameter in checkpoints."""
    return ".".join([*(str(key) for key in path[:-1]), LEAVES.get(str(path[-1]), str(path[-1]))])


def memory_axes(leaf: str, n: int) -> tuple[int, ...]:
    """Order of the canonical tensor's axes in the model's tensor, by the leaf's name and rank."""
    if leaf == "kernel":
        return (1, 0) if n == 2 else (*range(2, n), 1, 0)
    return (0, *range(2, n), 1) if n >= 3 else tuple(range(n))


def flat_layout(
    params: nnx.State,
    shapes: Mapping[str, tuple[int, ...]],
    decayed: Callable[[str], bool],
    shards: int = 1,
) -> tuple[Layout, Tree]:
    """Layout and tree of a model's parameters, whose names and shapes must be those of the family's table.

    With `shards` the vector is (shards, P): each row holds a share of every parameter.
    """
    paths = [path for path, _ in nnx.to_flat_state(params)]
    names = tuple(canonical_name(path) for path in paths)
    tree = Tree(jax.tree.structure(params), names, tuple(leaf.shape for leaf in jax.tree.leaves(params)))
    kinds = {name: str(path[-1]) for name, path in zip(names, paths, strict=True)}
    if set(kinds) != set(shapes):
        raise ValueError(
            f"parameter '{sorted(set(kinds) ^ set(shapes))[0]}' is either in the model or in the table only"
        )
    layout = make_layout(shapes, decayed, lambda name, shape: memory_axes(kinds[name], len(shape)), shards)
    expected = {slot.name: _without_ones(slot.memory_shape) for slot in layout.slots}
    for name, shape in zip(names, tree.shapes, strict=True):
        if _without_ones(shape) != expected[name]:
            raise ValueError(f"parameter '{name}': model has {shape}, table has {shapes[name]}")
    return layout, tree


def pieces(flat: Any, layout: Layout) -> dict[str, Array]:
    """Vector (P,) -> the values of every parameter (n,), or of (shards, P) -> (shards, n)."""
    return {slot.name: flat[..., slot.start : slot.stop] for slot in layout.slots}


def split(flat: Any, layout: Layout, tree: Tree) -> nnx.State:
    """Vector (P,) or (shards, P) -> the model's tree of parameters. Outside a program, give it an array of
    NumPy: JAX compiles a program for every tensor that it cuts."""
    return assemble(pieces(flat, layout), tree)


def assemble(values: Mapping[str, Array], tree: Tree) -> nnx.State:
    """What `pieces` returns -> the model's tree of parameters."""
    leaves = [
        _values(values[name], shape).reshape(shape)
        for name, shape in zip(tree.names, tree.shapes, strict=True)
    ]
    params: nnx.State = jax.tree.unflatten(tree.structure, leaves)
    return params


def join(params: nnx.State, layout: Layout, tree: Tree) -> Any:
    """Tree of the model's parameters or gradients -> vector (P,) or (shards, P), of NumPy if they are."""
    leaves = dict(zip(tree.names, jax.tree.leaves(params), strict=True))
    rows = [_rows(leaves[slot.name], slot) for slot in layout.slots]
    return np.concatenate(rows, -1) if isinstance(rows[0], np.ndarray) else jnp.concatenate(rows, -1)


def canonical(flat: Array, layout: Layout) -> dict[str, Array]:
    """Vector (P,) or (shards, P) -> tensors under canonical names, in canonical shapes."""
    values = pieces(flat, layout)
    return {
        slot.name: _values(values[slot.name], slot.shape)
        .reshape(slot.memory_shape)
        .transpose(slot.inverse_axes)
        for slot in layout.slots
    }


def write(flat: Array, values: Mapping[str, Array], layout: Layout) -> Array:
    """The vector with some of its tensors, given in canonical shapes, replaced."""
    slots = {slot.name: slot for slot in layout.slots}
    for name, value in values.items():
        slot = slots[name]
        rows = _rows(value.transpose(slot.axes), slot).astype(flat.dtype)
        flat = jax.lax.dynamic_update_slice_in_dim(flat, rows, slot.start, axis=flat.ndim - 1)
    return flat


def _values(rows: Any, shape: tuple[int, ...]) -> Any:
    """(n,) or (shards, n) -> the values (prod(shape),), without the zeros that fill the last row."""
    return rows if rows.ndim == 1 else rows.reshape(-1)[: prod(shape)]


def _rows(leaf: Any, slot: Slot) -> Any:
    """A parameter -> its values (n,), or its shares (shards, n)."""
    values = leaf.reshape(-1)
    if slot.shards == 1:
        return values
    return jnp.pad(values, (0, slot.fill)).reshape(slot.shards, -1)


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape without axes of length 1: a 1x1 convolution may be stored as a matrix."""
    return tuple(length for length in shape if length != 1)
