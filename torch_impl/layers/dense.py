"""Dense layers and embeddings. Channels are the last axis."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torch_impl.layers.precision import cast


class Dense(nn.Module):
    """(..., I) -> (..., O). Parameters begin as zeros; `dtype` is that of the arithmetic, None: as the input.

    With `pointwise` it is a 1x1 convolution, whose canonical kernel has the shape (O, I, 1, 1).
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        bias: bool = False,
        pointwise: bool = False,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(outputs, inputs, *((1, 1) if pointwise else ())))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.dtype = dtype

    def forward(self, x: Tensor, outputs: int | None = None) -> Tensor:
        """`outputs`: the first of them alone."""
        bias = None if self.bias is None else cast(self.bias[:outputs], self.dtype)
        return F.linear(cast(x, self.dtype), cast(self.weight[:outputs].flatten(1), self.dtype), bias)


class Embedding(nn.Module):
    """A row for each id: ids (...) -> (..., C) in the compute dtype."""

    def __init__(self, rows: int, width: int, *, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(rows, width))
        self.dtype = dtype

    def forward(self, ids: Tensor) -> Tensor:
        return cast(F.embedding(ids, self.weight), self.dtype)

    def first(self, n: int) -> Tensor:
        """Rows 0 to n - 1: (n, C)."""
        return cast(self.weight[:n], self.dtype)

    def logits(self, x: Tensor, bias: Tensor, outputs: int | None = None) -> Tensor:
        """Products with every row, or the first `outputs`, and a bias a row: (..., C), (V,) -> (..., V) (tied
        output layer)."""
        rows = (self.weight[:outputs], bias[:outputs])
        return F.linear(cast(x, self.dtype), *(cast(row, self.dtype) for row in rows))
