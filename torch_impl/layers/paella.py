"""Layers of Paella's tokenizer (Rampas et al. 2022). Tensors are NHWC."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from torch_impl.layers.dense import Dense
from torch_impl.layers.norms import LayerNorm
from torch_impl.layers.precision import cast

EPSILON = 1e-6

Dtype = torch.dtype | None


class ModulatedBlock(nn.Module):
    """3x3 convolutions of single channels, then two dense layers, each beside a shortcut: (B, h, w, C) -> the
    same. Six learned numbers scale and shift what the parts see and give; they begin as zeros."""

    def __init__(self, width: int, dtype: Dtype = None) -> None:
        super().__init__()
        self.gammas = nn.Parameter(torch.zeros(6))
        self.norm = LayerNorm(width, EPSILON, scale=False)
        self.depthwise = EdgePaddedDepthwise(width, dtype)
        self.channelwise = nn.ModuleDict(
            {
                "0": Dense(width, 4 * width, bias=True, dtype=dtype),
                "2": Dense(4 * width, width, bias=True, dtype=dtype),
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        g = cast(self.gammas, x.dtype)
        x = x + self.depthwise(self.norm(x) * (1 + g[0]) + g[1]) * g[2]
        y = self.channelwise["0"](self.norm(x) * (1 + g[3]) + g[4])
        return x + self.channelwise["2"](F.gelu(y)) * g[5]


class EdgePaddedDepthwise(nn.Module):
    """3x3 convolution of every channel by itself, the edges repeated outside: (B, h, w, C) -> the same."""

    def __init__(self, width: int, dtype: Dtype = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width, 1, 3, 3))
        self.bias = nn.Parameter(torch.zeros(width))
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        x, weight, bias = (cast(tensor, self.dtype) for tensor in (x, self.weight, self.bias))
        x = F.pad(rearrange(x, "b h w c -> b c h w"), (1, 1, 1, 1), mode="replicate")
        return rearrange(F.conv2d(x, weight, bias, groups=len(weight)), "b c h w -> b h w c")


class Halving(nn.Module):
    """4x4 convolution of stride 2: (B, h, w, I) -> (B, h / 2, w / 2, O)."""

    def __init__(self, inputs: int, outputs: int, dtype: Dtype = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(outputs, inputs, 4, 4))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        x, weight, bias = (cast(tensor, self.dtype) for tensor in (x, self.weight, self.bias))
        y = F.conv2d(rearrange(x, "b h w c -> b c h w"), weight, bias, stride=2, padding=1)
        return rearrange(y, "b c h w -> b h w c")


class Doubling(nn.Module):
    """Transposed 4x4 convolution of stride 2: (B, h, w, I) -> (B, 2 h, 2 w, O)."""

    def __init__(self, inputs: int, outputs: int, dtype: Dtype = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(inputs, outputs, 4, 4))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        x, weight, bias = (cast(tensor, self.dtype) for tensor in (x, self.weight, self.bias))
        y = F.conv_transpose2d(rearrange(x, "b h w c -> b c h w"), weight, bias, stride=2, padding=1)
        return rearrange(y, "b c h w -> b h w c")
