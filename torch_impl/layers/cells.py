"""The bottleneck cell, of which blocks consist (Efficient-VDVAE, figure 2; VD-VAE, figure 3)."""

from collections.abc import Callable, Mapping
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from dioscuri.families.hierarchical_vae.plan import Cell
from torch_impl.layers.convolution import convolution

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
}
"""By their names in plans."""


class ResidualCell(nn.Module):
    """An activation before each convolution: (B, C, ...) -> (B, O, ...).

    The plan says which activation, and whether the input is added.
    """

    def __init__(self, cell: Cell) -> None:
        super().__init__()
        self.convs = nn.ModuleList(convolution(i, o, k) for i, o, k in cell.convolutions)
        self.residual, self.activate = cell.residual, ACTIVATIONS[cell.activation]

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for conv in self.convs:
            y = conv(self.activate(y))
        return x + y if self.residual else y
