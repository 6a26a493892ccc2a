"""A stack of equal transformer layers."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array


def apply_layers(
    layers: nnx.List, x: Array, shared: tuple, own: Sequence[tuple], *, checkpoint: bool, scan: bool = False
) -> tuple[Array, list[Any]]:
    """x through `layer(x, *shared, *own)` -> x, and what each layer returns beside it.

    `checkpoint` recomputes every layer in the backward pass to save memory. `scan` compiles one layer, as a
    loop over their stacked parameters.
    """

    def call(x: Array, layer_and_own: tuple[nnx.Module, tuple]) -> tuple[Array, Any]:
        layer, arguments = layer_and_own
        return layer(x, *shared, *arguments)

    if checkpoint:
        call = jax.checkpoint(call, prevent_cse=not scan)
    pairs = list(zip(layers, own, strict=True))
    if scan and len(pairs) > 1:
        x, stacked = jax.lax.scan(call, x, jax.tree.map(lambda *leaves: jnp.stack(leaves), *pairs))
        return x, [jax.tree.map(lambda leaves, i=i: leaves[i], stacked) for i in range(len(pairs))]
    found = []
    for pair in pairs:
        x, value = call(x, pair)
        found.append(value)
    return x, found
