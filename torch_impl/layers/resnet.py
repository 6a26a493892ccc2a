"""Residual blocks of image tokenizers. Tensors are NCHW with channels last in memory."""

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from torch_impl.layers.attention import attend
from torch_impl.layers.dropout import Dropout

EPSILON = 1e-6


class Halved(nn.Conv2d):
    """3x3 convolution of stride 2, padded right and below only: (B, I, H, W) -> (B, O, H / 2, W / 2)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (0, 1, 0, 1)))


class SpatialNorm(nn.Module):
    """A group norm whose scales and shifts are 1x1 convolutions of the codes, which lie on the same or a
    coarser grid (Zheng et al. 2022, MoVQ, equation 5)."""

    def __init__(self, width: int, groups: int, codes: int) -> None:
        super().__init__()
        self.norm_layer = group_norm(width, groups)
        self.conv_y = nn.Conv2d(codes, width, 1)
        self.conv_b = nn.Conv2d(codes, width, 1)

    def forward(self, x: Tensor, codes: Tensor) -> Tensor:
        """(B, C, H, W) and (B, D, h, w) -> (B, C, H, W)."""
        factor, summand = (self._spread(layer(codes), x) for layer in (self.conv_y, self.conv_b))
        return self.norm_layer(x) * factor + summand

    def _spread(self, y: Tensor, like: Tensor) -> Tensor:
        """Nearest-neighbour upsampling, after the 1x1 convolution, with which it commutes."""
        return F.interpolate(y, scale_factor=like.shape[2] // y.shape[2], mode="nearest")


class ResnetBlock(nn.Module):
    """Two norms, SiLUs and 3x3 convolutions with a shortcut: (B, I, H, W) -> (B, O, H, W).

    `legacy_shortcut`: if the width changes, the shortcut reads the convolutions' output instead of the input.
    `modulation`: channels of the codes that modulate the norms; 0: no modulation.
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
    ) -> None:
        super().__init__()
        self.norm1 = _norm(inputs, groups, modulation)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias)
        self.norm2 = _norm(outputs, groups, modulation)
        self.dropout = Dropout(rate)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=bias)
        self.legacy_shortcut = legacy_shortcut
        seen = outputs if legacy_shortcut else inputs
        changes = inputs != outputs
        self.nin_shortcut = nn.Conv2d(seen, outputs, 1, bias=bias) if changes else None

    def forward(self, x: Tensor, uniform: Tensor | None = None, codes: Tensor | None = None) -> Tensor:
        """`uniform` (B, H, W, O) is for dropout."""
        y = self.conv1(F.silu(_normed(self.norm1, x, codes)))
        y = F.silu(_normed(self.norm2, y, codes))
        uniform = None if uniform is None else rearrange(uniform, "b h w c -> b c h w")
        y = self.conv2(self.dropout(y, uniform))
        if self.nin_shortcut is None:
            return x + y
        return y + self.nin_shortcut(y if self.legacy_shortcut else x)


class GridAttention(nn.Module):
    """Single-head attention among the positions of a grid, with a shortcut: (B, C, H, W) -> the same."""

    def __init__(self, width: int, *, groups: int, modulation: int = 0) -> None:
        super().__init__()
        self.norm = _norm(width, groups, modulation)
        self.q = nn.Conv2d(width, width, 1)
        self.k = nn.Conv2d(width, width, 1)
        self.v = nn.Conv2d(width, width, 1)
        self.proj_out = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor, codes: Tensor | None = None) -> Tensor:
        y = _normed(self.norm, x, codes)
        q, k, v = (rearrange(layer(y), "b c h w -> b (h w) 1 c") for layer in (self.q, self.k, self.v))
        y = attend(q, k, v)
        return x + self.proj_out(rearrange(y, "b (h w) c -> b c h w", h=x.shape[2]))


def group_norm(width: int, groups: int) -> nn.GroupNorm:
    """The group norm of all tokenizers."""
    return nn.GroupNorm(groups, width, EPSILON)


def _norm(width: int, groups: int, modulation: int) -> nn.GroupNorm | SpatialNorm:
    return SpatialNorm(width, groups, modulation) if modulation else group_norm(width, groups)


def _normed(norm: nn.Module, x: Tensor, codes: Tensor | None) -> Tensor:
    normed: Tensor = norm(x) if codes is None else norm(x, codes)
    return normed


def halve(x: Tensor) -> Tensor:
    """Mean over 2x2 positions."""
    return F.avg_pool2d(x, 2)


def double(x: Tensor) -> Tensor:
    """Every position repeated 2x2 times."""
    return F.interpolate(x, scale_factor=2, mode="nearest")
