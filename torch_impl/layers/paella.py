"""Layers of Paella's tokenizer (Rampas et al. 2022). Tensors are NHWC."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

EPSILON = 1e-6


class ModulatedBlock(nn.Module):
    """A depthwise 3x3 convolution, then two dense layers, each part with a shortcut: (B, h, w, C) -> the
    same. Six learned numbers, initially zero, scale and shift the inputs and scale the outputs of both
    parts."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gammas = nn.Parameter(torch.zeros(6))
        self.norm = nn.LayerNorm(width, EPSILON, elementwise_affine=False)
        self.depthwise = EdgePaddedDepthwise(width)
        self.channelwise = nn.ModuleDict({"0": nn.Linear(width, 4 * width), "2": nn.Linear(4 * width, width)})

    def forward(self, x: Tensor) -> Tensor:
        g = self.gammas
        x = x + self.depthwise(self.norm(x) * (1 + g[0]) + g[1]) * g[2]
        y = self.channelwise["0"](self.norm(x) * (1 + g[3]) + g[4])
        return x + self.channelwise["2"](F.gelu(y)) * g[5]


class EdgePaddedDepthwise(nn.Conv2d):
    """Depthwise 3x3 convolution with replicated edges: (B, h, w, C) -> the same."""

    def __init__(self, width: int) -> None:
        super().__init__(width, width, 3, padding=1, padding_mode="replicate", groups=width)

    def forward(self, x: Tensor) -> Tensor:
        return rearrange(super().forward(rearrange(x, "b h w c -> b c h w")), "b c h w -> b h w c")


class Halving(nn.Conv2d):
    """4x4 convolution of stride 2: (B, h, w, I) -> (B, h / 2, w / 2, O)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 4, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return rearrange(super().forward(rearrange(x, "b h w c -> b c h w")), "b c h w -> b h w c")


class Doubling(nn.ConvTranspose2d):
    """Transposed 4x4 convolution of stride 2: (B, h, w, I) -> (B, 2 h, 2 w, O)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 4, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]  # no output_size
        return rearrange(super().forward(rearrange(x, "b h w c -> b c h w")), "b c h w -> b h w c")
