"""A stack of equal transformer layers."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute


def apply_layers(
    layers: nn.ModuleList, x: Tensor, shared: tuple, own: Sequence[tuple], *, checkpoint: bool
) -> tuple[Tensor, list[Any]]:
    """x through `layer(x, *shared, *own)` -> x, and what each layer returns beside it.

    `checkpoint` recomputes every layer in the backward pass to save memory.
    """
    found = []
    for layer, arguments in zip(layers, own, strict=True):
        if checkpoint:
            x, value = recompute(layer, x, *shared, *arguments, use_reentrant=False)
        else:
            x, value = layer(x, *shared, *arguments)
        found.append(value)
    return x, found
