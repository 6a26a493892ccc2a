"""Discriminators: PatchGAN (Isola et al. 2017, appendix 6.1), StyleGAN2 (Karras et al. 2020, figure 7),
VQGAN+ (Weber et al. 2024).

Inputs and outputs are NHWC; inside, tensors are NCHW with channels last in memory.
"""

from itertools import pairwise
from math import sqrt
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from dioscuri.families.vqgan.discriminators import STAGE_GROUPS, DiscriminatorPlan
from torch_impl.layers.precision import at_least_float32, weights_dtype
from torch_impl.models.dcvae import ContrastiveDiscriminator

LEAK = 0.2
"""Slope of the leaky ReLUs."""
EPSILON = 1e-5
"""Added to the variance in norms."""
BLUR = (0.125, 0.375, 0.375, 0.125)
STAGE_LEAK, LOGITS_SIDE = 0.1, 16
"""Slope of the staged discriminator's leaky ReLUs, and side of its logits."""


class PatchDiscriminator(nn.Module):
    """PatchGAN. Batch norm uses the batch's statistics; there are no running statistics, which training would
    never read."""

    def __init__(self, plan: DiscriminatorPlan) -> None:
        super().__init__()
        modules: dict[str, nn.Module] = {}
        for layer in plan.patches:
            modules[str(layer.index)] = nn.Conv2d(
                layer.inputs, layer.outputs, 4, layer.stride, padding=1, bias=layer.bias
            )
            if layer.normed and plan.norm == "batch":
                modules[str(layer.index + 1)] = Affine(layer.outputs)
        self.main = nn.ModuleDict(modules)
        self.plan = plan

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Pictures (B, H, W, C) -> logits (B, h, w, 1) in at least float32, high for real pictures, and a
        dict with `mean.<i>` and `variance.<i>` (biased) of every batch norm, each (C,)."""
        y = x.to(weights_dtype(self)).permute(0, 3, 1, 2)
        aux: dict[str, Tensor] = {}
        for layer in self.plan.patches:
            y = self.main[str(layer.index)](y)
            if layer.normed and self.plan.norm != "none":
                axes = (0, 2, 3) if self.plan.norm == "batch" else (2, 3)
                dtype, y = y.dtype, at_least_float32(y)
                variance, mean = torch.var_mean(y, axes, correction=0, keepdim=True)
                y = (y - mean) * torch.rsqrt(variance + EPSILON)
                if self.plan.norm == "batch":
                    name = str(layer.index + 1)
                    y = self.main[name](y)
                    aux |= {f"mean.{name}": mean.flatten(), f"variance.{name}": variance.flatten()}
                y = y.to(dtype)
            if layer is not self.plan.patches[-1]:
                y = F.leaky_relu(y, LEAK)
        return at_least_float32(y).permute(0, 2, 3, 1), aux


class Affine(nn.Module):
    """A scale and a shift per channel, after a norm: (B, C, H, W) -> the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = (rearrange(tensor, "c -> 1 c 1 1") for tensor in (self.weight, self.bias))
        return x * weight + bias


class ResidualDiscriminator(nn.Module):
    """Residual blocks that halve the pictures down to 4x4, then two dense layers."""

    def __init__(self, plan: DiscriminatorPlan) -> None:
        super().__init__()
        widths, last = plan.widths, plan.widths[-1]
        self.input = nn.Conv2d(plan.channels, widths[0], 3, padding=1)
        self.blocks = nn.ModuleList(
            ResidualBlock(inputs, outputs, plan.blur) for inputs, outputs in pairwise(widths)
        )
        self.conv = nn.Conv2d(last, last, 3, padding=1)
        self.dense = nn.Linear(16 * last, last)
        self.output = nn.Linear(last, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Pictures (B, H, W, C) -> logits (B, 1, 1, 1) in at least float32, high for real
        pictures, and an empty dict."""
        x = x.to(self.input.weight.dtype).permute(0, 3, 1, 2)
        y = F.leaky_relu(self.input(x), LEAK)
        for block in self.blocks:
            y = block(y)
        y = F.leaky_relu(self.conv(y), LEAK)
        y = F.leaky_relu(self.dense(rearrange(y, "b c h w -> b (c h w)")), LEAK)
        return at_least_float32(rearrange(self.output(y), "b c -> b 1 1 c")), {}


class ResidualBlock(nn.Module):
    """(B, I, H, W) -> (B, O, H / 2, W / 2)."""

    def __init__(self, inputs: int, outputs: int, blur: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, inputs, 3, padding=1)
        self.conv2 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.blur = blur

    def forward(self, x: Tensor) -> Tensor:
        y = halved(F.leaky_relu(self.conv1(x), LEAK), blur=self.blur)
        y = F.leaky_relu(self.conv2(y), LEAK)
        total: Tensor = (self.shortcut(halved(x, blur=self.blur)) + y) / sqrt(2)
        return total


def halved(x: Tensor, *, blur: bool) -> Tensor:
    """Half the resolution, by the mean of 2x2 pixels or, with `blur`, by every second pixel after a blur with
    [1, 3, 3, 1] / 8 along both axes: (B, C, H, W) -> (B, C, H / 2, W / 2)."""
    return blurred(x, BLUR, (1, 1)) if blur else F.avg_pool2d(x, 2)


class StagedDiscriminator(nn.Module):
    """A convolution and stages of convolution, half the resolution, group norm and leaky ReLU, then logits of
    16x16 positions (Weber et al. 2024, MaskBit, appendix)."""

    def __init__(self, plan: DiscriminatorPlan) -> None:
        super().__init__()
        first, last = plan.stages[0][0], plan.stages[-1][1]
        self.block_in = nn.ModuleList([nn.Conv2d(plan.channels, first, 5, padding=2)])
        self.blocks: Any = nn.ModuleList(
            nn.ModuleDict(
                {
                    "0": nn.Conv2d(inputs, outputs, 3, padding=1),
                    "2": nn.GroupNorm(STAGE_GROUPS, outputs, EPSILON),
                }
            )
            for inputs, outputs in plan.stages
        )
        self.to_logits = nn.ModuleDict({"0": nn.Conv2d(last, last, 1), "2": nn.Conv2d(last, 1, 5, padding=2)})
        self.plan = plan

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Pictures (B, H, W, C) -> logits (B, 16, 16, 1) in at least float32, high for real pictures, and an
        empty dict."""
        plan = self.plan
        y = F.leaky_relu(self.block_in[0](x.to(weights_dtype(self)).permute(0, 3, 1, 2)), STAGE_LEAK)
        for block in self.blocks:
            y = block["0"](y)
            y = blurred(y, plan.taps, plan.blur_edges) if plan.blur else F.avg_pool2d(y, 2)
            y = F.leaky_relu(block["2"](y), STAGE_LEAK)
        y = F.leaky_relu(self.to_logits["0"](F.adaptive_max_pool2d(y, LOGITS_SIDE)), STAGE_LEAK)
        return at_least_float32(self.to_logits["2"](y)).permute(0, 2, 3, 1), {}


def blurred(x: Tensor, taps: tuple[float, ...], edges: tuple[int, int]) -> Tensor:
    """Every second pixel after a blur along both axes, with zeros at the edges, before and after:
    (B, C, H, W) -> (B, C, H / 2, W / 2)."""
    kernel, n = torch.tensor(taps, dtype=x.dtype, device=x.device), len(taps)
    kernel = rearrange(torch.outer(kernel, kernel), "h w -> 1 1 h w").expand(x.shape[1], 1, n, n)
    return F.conv2d(F.pad(x, edges * 2), kernel, stride=2, groups=x.shape[1])


def build_discriminator(plan: DiscriminatorPlan | None) -> nn.Module | None:
    """The discriminator of a plan, with uninitialised parameters; None without a plan."""
    if plan is None:
        return None
    if plan.contrast is not None:
        return ContrastiveDiscriminator(plan.contrast)
    if plan.stages:
        return StagedDiscriminator(plan)
    return PatchDiscriminator(plan) if plan.patches else ResidualDiscriminator(plan)
