"""The bottleneck cell, of which blocks consist (Efficient-VDVAE, figure 2; VD-VAE, figure 3)."""

from collections.abc import Callable, Mapping
from functools import partial

import jax
from flax import nnx
from jax import Array

from dioscuri.families.hierarchical_vae.plan import Cell
from jax_impl.layers.convolution import convolution

ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = {
    "silu": jax.nn.silu,
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": partial(jax.nn.gelu, approximate=True),
}
"""By their names in plans."""


class ResidualCell(nnx.Module):
    """An activation before each convolution: (B, ..., C) -> (B, ..., O).

    The plan says which activation, and whether the input is added.
    """

    def __init__(self, cell: Cell) -> None:
        self.convs = nnx.List([convolution(i, o, k) for i, o, k in cell.convolutions])
        self.residual, self.activate = cell.residual, ACTIVATIONS[cell.activation]

    def __call__(self, x: Array) -> Array:
        y = x
        for conv in self.convs:
            y = conv(self.activate(y))
        return x + y if self.residual else y
