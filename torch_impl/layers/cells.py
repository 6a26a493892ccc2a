"""The bottleneck cell of which every block is made (Efficient-VDVAE, figure 2)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.plans.hierarchical_vae import Cell
from torch_impl.layers.convolution import Conv2d


class ResidualCell(nn.Module):
    """A SiLU before each convolution; the plan says if the input is added: (B, C, H, W) -> (B, O, H, W)."""

    def __init__(self, cell: Cell, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.convs = nn.ModuleList(Conv2d(i, o, (k, k), dtype) for i, o, k in cell.convolutions)
        self.residual = cell.residual

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for conv in self.convs:
            y = conv(F.silu(y))
        return x + y if self.residual else y
