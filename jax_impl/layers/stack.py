"""A stack of equal transformer layers."""

from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp


def apply_layers(
    layers: Iterable[Any],
    x: Any,
    shared: tuple,
    per_layer: Sequence[tuple],
    *,
    checkpoint: bool,
    scan: bool = False,
) -> tuple[Any, list[Any]]:
    """Apply `layer(x, *shared, *arguments)` with a layer's arguments from `per_layer`; return x
    and the layers' other results. x is an array or a tuple of arrays.

    `checkpoint` recomputes every layer in the backward pass to save memory. `scan` compiles one layer, as a
    loop over their stacked parameters.
    """

    def step(x: Any, layer_and_arguments: tuple[Any, tuple]) -> tuple[Any, Any]:
        layer, arguments = layer_and_arguments
        return layer(x, *shared, *arguments)

    if checkpoint:
        step = jax.checkpoint(step, prevent_cse=not scan)
    pairs = list(zip(layers, per_layer, strict=True))
    if scan and len(pairs) > 1:
        x, stacked = jax.lax.scan(step, x, jax.tree.map(lambda *leaves: jnp.stack(leaves), *pairs))
        return x, [jax.tree.map(lambda leaves, i=i: leaves[i], stacked) for i in range(len(pairs))]
    outputs = []
    for pair in pairs:
        x, output = step(x, pair)
        outputs.append(output)
    return x, outputs


def call(layer: Any, *arguments: Any, checkpoint: bool) -> Any:
    """Call the layer; with `checkpoint`, its result is recomputed in the backward pass to save memory."""
    if not checkpoint:
        return layer(*arguments)
    return jax.checkpoint(lambda layer, *arguments: layer(*arguments))(layer, *arguments)
