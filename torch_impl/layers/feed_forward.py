"""Gated feed-forward layers (Shazeer 2020, "GLU Variants Improve Transformer"): (..., C) -> (..., C)."""

import torch.nn.functional as F
from torch import Tensor, nn

from torch_impl.layers.dropout import Dropout
from torch_impl.layers.norms import GammaLayerNorm


class SwiGLU(nn.Module):
    """w2(silu(w1 x) * w3 x), without biases."""

    def __init__(self, width: int, inner: int, *, rate: float = 0.0) -> None:
        super().__init__()
        self.w1 = nn.Linear(width, inner, bias=False)
        self.w2 = nn.Linear(inner, width, bias=False)
        self.w3 = nn.Linear(width, inner, bias=False)
        self.dropout = Dropout(rate)

    def forward(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """`noise` (..., inner) is uniform, for dropout."""
        return self.w2(self.dropout(F.silu(self.w1(x)) * self.w3(x), noise))


class GEGLU(nn.ModuleDict):
    """LayerNorm, dense layer, the second half times the GELU of the first, LayerNorm, dense layer; no biases.

    Modules are numbered as in muse-maskgit-pytorch.
    """

    def __init__(self, width: int, inner: int, eps: float, *, rate: float = 0.0) -> None:
        super().__init__(
            {
                "0": GammaLayerNorm(width, eps),
                "1": nn.Linear(width, 2 * inner, bias=False),
                "3": GammaLayerNorm(inner, eps),
                "4": nn.Linear(inner, width, bias=False),
                "dropout": Dropout(rate),
            }
        )

    def forward(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """`noise` (..., inner) is uniform, for dropout."""
        y, gate = self["1"](self["0"](x)).chunk(2, -1)
        return self["4"](self["dropout"](self["3"](gate * F.gelu(y)), noise))
