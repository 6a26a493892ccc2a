"""Dense layers that `nn.Linear` lacks. Channels are the last axis."""

import torch.nn.functional as F
from torch import Tensor, nn


class Logits(nn.Linear):
    """A dense layer that can compute only its first `outputs`: (..., I) -> (..., outputs)."""

    def forward(self, x: Tensor, outputs: int | None = None) -> Tensor:
        if outputs is None:
            return super().forward(x)
        bias = self._parameters["bias"]
        return F.linear(x, self.weight[:outputs], None if bias is None else bias[:outputs])


class PointwiseDense(nn.Conv2d):
    """A 1x1 convolution with channels last, as a matrix product; its kernel has the shape (O, I, 1, 1):
    (..., I) -> (..., O)."""

    def __init__(self, in_channels: int, out_channels: int, *, bias: bool = True) -> None:
        super().__init__(in_channels, out_channels, 1, bias=bias)

    def forward(self, x: Tensor, outputs: int | None = None) -> Tensor:
        """`outputs`: compute only the first ones."""
        bias = None if self.bias is None else self.bias[:outputs]
        return F.linear(x, self.weight[:outputs].flatten(1), bias)


def tied_logits(x: Tensor, rows: Tensor, bias: Tensor, outputs: int | None = None) -> Tensor:
    """Products with an embedding's rows (V, C), or the first `outputs` of them, plus a bias (V,):
    (..., C) -> (..., V)."""
    return F.linear(x, rows[:outputs], bias[:outputs])
