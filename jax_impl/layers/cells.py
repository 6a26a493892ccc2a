"""The bottleneck cell of which every block is made (Efficient-VDVAE, figure 2)."""

import jax
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from common.plans.hierarchical_vae import Cell
from jax_impl.layers.convolution import Conv2d


class ResidualCell(nnx.Module):
    """A SiLU before each convolution; the plan says if the input is added: (B, H, W, C) -> (B, H, W, O)."""

    def __init__(self, cell: Cell, dtype: DTypeLike | None = None) -> None:
        self.convs = nnx.List([Conv2d(i, o, (k, k), dtype) for i, o, k in cell.convolutions])
        self.residual = cell.residual

    def __call__(self, x: Array) -> Array:
        y = x
        for conv in self.convs:
            y = conv(jax.nn.silu(y))
        return x + y if self.residual else y
