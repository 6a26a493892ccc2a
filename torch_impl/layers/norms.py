"""Norms over the last axis. Their statistics are in at least float32; the output has the input's dtype.

`nn.LayerNorm`, `nn.RMSNorm` and `nn.GroupNorm` do that themselves.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torch_impl.layers.precision import at_least_float32


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of maps, with scale and shift, eps 1e-5: (B, C, ...)."""

    def __init__(self, width: int) -> None:
        super().__init__(width, 1e-5)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class BiasedRMSNorm(nn.RMSNorm):
    """RMSNorm with a shift per channel: (..., C)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__(width, eps)
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        weight = at_least_float32(self.weight)
        y = F.rms_norm(at_least_float32(x), self.normalized_shape, weight, self.eps)
        return (y + self.bias).to(x.dtype)


class GammaLayerNorm(nn.Module):
    """LayerNorm without bias, whose scale is called gamma in published weights: (..., C)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(width))
        self.width, self.eps = width, eps

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, (self.width,), self.gamma, None, self.eps)


class ScaleNorm(nn.Module):
    """g x / max(|x| / sqrt(C), 1e-5) with a learned g (Nguyen and Salazar 2019, in the form
    of x-transformers): (..., C)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.g = nn.Parameter(torch.zeros(1))
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        y = at_least_float32(x)
        norm = torch.linalg.vector_norm(y, dim=-1, keepdim=True) * self.width**-0.5
        return (y / norm.clamp(min=1e-5) * self.g).to(x.dtype)


class GlobalResponseNorm(nn.Module):
    """Global response normalisation of ConvNeXt V2 (Woo et al. 2023, section 3).

    (B, H, W, C) -> the same. `gamma` and `beta` have the shape (1, 1, 1, C).
    """

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, 1, 1, width))
        self.beta = nn.Parameter(torch.zeros(1, 1, 1, width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        y = at_least_float32(x)
        norm = torch.linalg.vector_norm(y, dim=(1, 2), keepdim=True)
        relative = norm / (norm.mean(-1, keepdim=True) + self.eps)
        return (self.gamma * (y * relative) + self.beta + y).to(x.dtype)


def make_norm(kind: str, width: int, eps: float, *, scale: bool = True, bias: bool = False) -> nn.Module:
    """A norm of kind 'layernorm', or 'rmsnorm', which never has a bias here."""
    if kind == "rmsnorm":
        return nn.RMSNorm(width, eps, elementwise_affine=scale)
    return nn.LayerNorm(width, eps, elementwise_affine=scale, bias=bias)


def rms_normalised(x: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean square over the last axis + eps)."""
    return F.rms_norm(x, x.shape[-1:], eps=eps)


def unit(x: Tensor) -> Tensor:
    """x / max(|x|, 1e-12), with the Euclidean norm along the last axis."""
    return F.normalize(x, dim=-1, eps=1e-12)


def modulated(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """x (1 + scale) + shift: (B, ..., C), (B, C), (B, C) -> (B, ..., C) (adaptive norm, Peebles and Xie)."""
    shape = (len(x), *(1,) * (x.ndim - 2), x.shape[-1])
    return x * (1 + scale.reshape(shape)) + shift.reshape(shape)
