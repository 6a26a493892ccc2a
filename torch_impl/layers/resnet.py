"""Residual blocks of image tokenizers. Tensors are NCHW with channels last in memory."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from torch_impl.layers.attention import attend
from torch_impl.layers.dropout import dropout
from torch_impl.layers.precision import at_least_float32, cast

EPSILON = 1e-6


class Convolution(nn.Module):
    """Square kernel, (B, I, H, W) -> (B, O, H, W); with `stride` 2 zeros stand right and below only."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        bias: bool = True,
        stride: int = 1,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.kernel, self.stride, self.dtype = kernel, stride, dtype

    def forward(self, x: Tensor) -> Tensor:
        x, weight = cast(x, self.dtype), cast(self.weight, self.dtype)
        bias = None if self.bias is None else cast(self.bias, self.dtype)
        if self.stride > 1:
            return F.conv2d(F.pad(x, (0, 1, 0, 1)), weight, bias, self.stride)
        return F.conv2d(x, weight, bias, padding=self.kernel // 2)


class GroupNorm(nn.Module):
    """Over the grid and the channels of a group (Wu and He 2018); statistics in at least float32."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        y = at_least_float32(x)
        weight, bias = self.weight.to(y.dtype), self.bias.to(y.dtype)
        return F.group_norm(y, self.groups, weight, bias, EPSILON).to(x.dtype)


class SpatialNorm(nn.Module):
    """A group norm whose factors and summands are 1x1 convolutions of the codes, which lie on a grid that is
    as fine or coarser (Zheng et al. 2022, MoVQ, equation 5)."""

    def __init__(self, width: int, groups: int, codes: int, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.norm_layer = GroupNorm(width, groups)
        self.conv_y = Convolution(codes, width, 1, dtype=dtype)
        self.conv_b = Convolution(codes, width, 1, dtype=dtype)

    def forward(self, x: Tensor, codes: Tensor) -> Tensor:
        """(B, C, H, W) and (B, D, h, w) -> (B, C, H, W)."""
        factor, summand = (self._spread(layer(codes), x) for layer in (self.conv_y, self.conv_b))
        return self.norm_layer(x) * factor + summand

    def _spread(self, y: Tensor, like: Tensor) -> Tensor:
        """What the nearest position has; convolved before, for 1x1 kernels do not mind."""
        return F.interpolate(y, scale_factor=like.shape[2] // y.shape[2], mode="nearest")


class ResnetBlock(nn.Module):
    """Two norms, SiLUs and 3x3 convolutions beside a shortcut: (B, I, H, W) -> (B, O, H, W).

    `legacy_shortcut`: where the width changes, the shortcut takes the convolutions' output, not the input.
    `modulation`: channels of the codes that modulate the norms; 0: none do.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        groups: int,
        bias: bool,
        rate: float,
        legacy_shortcut: bool = False,
        modulation: int = 0,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.norm1 = _norm(inputs, groups, modulation, dtype)
        self.conv1 = Convolution(inputs, outputs, 3, bias=bias, dtype=dtype)
        self.norm2 = _norm(outputs, groups, modulation, dtype)
        self.conv2 = Convolution(outputs, outputs, 3, bias=bias, dtype=dtype)
        self.rate, self.legacy_shortcut = rate, legacy_shortcut
        seen = outputs if legacy_shortcut else inputs
        changes = inputs != outputs
        self.nin_shortcut = Convolution(seen, outputs, 1, bias=bias, dtype=dtype) if changes else None

    def forward(self, x: Tensor, uniform: Tensor | None = None, codes: Tensor | None = None) -> Tensor:
        """`uniform` (B, H, W, O) is for dropout."""
        y = self.conv1(F.silu(_normed(self.norm1, x, codes)))
        y = F.silu(_normed(self.norm2, y, codes))
        if uniform is not None:
            y = dropout(y, rearrange(uniform, "b h w c -> b c h w"), self.rate)
        y = self.conv2(y)
        if self.nin_shortcut is None:
            return x + y
        return y + self.nin_shortcut(y if self.legacy_shortcut else x)


class GridAttention(nn.Module):
    """Attention of one head among the positions of a grid, beside a shortcut: (B, C, H, W) -> the same."""

    def __init__(
        self, width: int, *, groups: int, modulation: int = 0, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.norm = _norm(width, groups, modulation, dtype)
        self.q = Convolution(width, width, 1, dtype=dtype)
        self.k = Convolution(width, width, 1, dtype=dtype)
        self.v = Convolution(width, width, 1, dtype=dtype)
        self.proj_out = Convolution(width, width, 1, dtype=dtype)

    def forward(self, x: Tensor, codes: Tensor | None = None) -> Tensor:
        y = _normed(self.norm, x, codes)
        q, k, v = (rearrange(layer(y), "b c h w -> b (h w) 1 c") for layer in (self.q, self.k, self.v))
        y = attend(q, k, v)
        return x + self.proj_out(rearrange(y, "b (h w) c -> b c h w", h=x.shape[2]))


def _norm(width: int, groups: int, modulation: int, dtype: torch.dtype | None) -> GroupNorm | SpatialNorm:
    return SpatialNorm(width, groups, modulation, dtype) if modulation else GroupNorm(width, groups)


def _normed(norm: nn.Module, x: Tensor, codes: Tensor | None) -> Tensor:
    normed: Tensor = norm(x) if codes is None else norm(x, codes)
    return normed


def halve(x: Tensor) -> Tensor:
    """Mean over 2x2 positions."""
    return F.avg_pool2d(x, 2)


def double(x: Tensor) -> Tensor:
    """Every position four times."""
    return F.interpolate(x, scale_factor=2, mode="nearest")
