"""Convolutions divided by their largest singular value (Miyato et al. 2018). Tensors are NCHW."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from dioscuri.families.vqgan.spectral import SpectralBlock
from torch_impl.layers.named import Tensors
from torch_impl.layers.precision import at_least_float32

EPSILON = 1e-12
LEAK = 0.2
"""Slope of the leaky ReLUs."""


class SpectralConvolution(nn.Conv2d):
    """conv(x) / sigma + bias: (B, I, H, W) -> (B, O, h, w), with padding (kernel - 1) / 2.

    The singular value sigma is an argument; with `stored`, it is also a parameter, used if none is given.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        stride: int = 1,
        bias: bool = True,
        stored: bool = False,
    ) -> None:
        super().__init__(inputs, outputs, kernel, stride, (kernel - 1) // 2, bias=bias)
        if stored:
            self.sigma = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor, sigma: Tensor | None = None) -> Tensor:
        y = F.conv2d(x, self.weight, None, self.stride, self.padding)
        y = y / (self.sigma.detach() if sigma is None else sigma.to(y.dtype))
        return y if self.bias is None else y + rearrange(self.bias, "o -> 1 o 1 1")


class SpectralResidual(nn.Module):
    """Two convolutions with a shortcut, divided by sqrt(2); a leaky ReLU before (`first`) or after each:
    (B, I, H, W) -> (B, O, h, w)."""

    def __init__(self, block: SpectralBlock, *, biased: bool, stored: bool, first: bool) -> None:
        super().__init__()
        kernel, stride = (4, 2) if block.halves else (3, 1)

        def convolution(inputs: int, kernel: int, stride: int = 1) -> SpectralConvolution:
            return SpectralConvolution(
                inputs, block.outputs, kernel, stride=stride, bias=biased, stored=stored
            )

        self.conv1 = convolution(block.inputs, 3)
        self.conv2 = convolution(block.outputs, kernel, stride)
        self.shortcut = convolution(block.inputs, 1)
        self.block, self.first = block, first

    def layers(self) -> dict[str, SpectralConvolution]:
        """Its convolutions by name."""
        return {"conv1": self.conv1, "conv2": self.conv2, "shortcut": self.shortcut}

    def forward(self, x: Tensor, sigmas: Tensors) -> Tensor:
        y = x
        for name, conv in (("conv1", self.conv1), ("conv2", self.conv2)):
            y = conv(F.leaky_relu(y, LEAK) if self.first else y, sigmas.get(name))
            y = y if self.first else F.leaky_relu(y, LEAK)
        shortcut = self.shortcut(x, sigmas.get("shortcut"))
        shortcut = F.avg_pool2d(shortcut, 2) if self.block.halves else shortcut
        total: Tensor = (y + shortcut) * 0.5**0.5
        return total


def iterated(layers: Mapping[str, SpectralConvolution], vectors: Tensors) -> tuple[dict[str, Tensor], ...]:
    """Differentiable singular values (1,) of the layers' kernels after one power iteration from the vectors
    (O,), and the new vectors."""
    sigmas, new = {}, {}
    for name, layer in layers.items():
        matrix = rearrange(at_least_float32(layer.weight), "o i h w -> (i h w) o")
        constant = matrix.detach()
        left = _unit(constant @ vectors[name].to(matrix.dtype))
        new[name] = _unit(left @ constant)
        sigmas[name] = rearrange(left @ matrix @ new[name], " -> 1")
    return sigmas, new


def _unit(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().sum() + EPSILON)
