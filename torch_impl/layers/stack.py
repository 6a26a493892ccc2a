"""A stack of equal transformer layers."""

from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint as recompute


def apply_layers(
    layers: nn.ModuleList, x: Any, shared: tuple, per_layer: Sequence[tuple], *, checkpoint: bool
) -> tuple[Any, list[Any]]:
    """Apply `layer(x, *shared, *arguments)` with a layer's arguments from `per_layer`; return x
    and the layers' other results. x is a tensor or a tuple of tensors.

    `checkpoint` recomputes every layer in the backward pass to save memory.
    """
    outputs = []
    for layer, arguments in zip(layers, per_layer, strict=True):
        x, output = call(layer, x, *shared, *arguments, checkpoint=checkpoint)
        outputs.append(output)
    return x, outputs


def call(layer: nn.Module, *arguments: Any, checkpoint: bool) -> Any:
    """Call the layer; with `checkpoint`, its result is recomputed in the backward pass to save memory."""
    return recompute(layer, *arguments, use_reentrant=False) if checkpoint else layer(*arguments)
