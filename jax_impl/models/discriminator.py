"""Discriminators: PatchGAN (Isola et al. 2017, appendix 6.1), StyleGAN2 (Karras et al. 2020, figure 7),
VQGAN+ (Weber et al. 2024).

Arrays are NHWC.
"""

from itertools import pairwise
from math import sqrt

import jax.numpy as jnp
from einops import rearrange, reduce
from flax import nnx
from jax import Array, lax

from dioscuri.families.vqgan.discriminators import STAGE_GROUPS, DiscriminatorPlan
from jax_impl.layers.convolution import Conv
from jax_impl.layers.dense import Linear
from jax_impl.layers.precision import at_least_float32
from jax_impl.layers.resnet import GroupNorm
from jax_impl.models.dcvae import ContrastiveDiscriminator

LEAK = 0.2
"""Slope of the leaky ReLUs."""
EPSILON = 1e-5
"""Added to the variance in norms."""
BLUR = (0.125, 0.375, 0.375, 0.125)
STAGE_LEAK, LOGITS_SIDE = 0.1, 16
"""Slope of the staged discriminator's leaky ReLUs, and side of its logits."""


class PatchDiscriminator(nnx.Module):
    """PatchGAN. Batch norm uses the batch's statistics; there are no running statistics, which training would
    never read."""

    def __init__(self, plan: DiscriminatorPlan) -> None:
        modules: dict[str, nnx.Module] = {}
        for layer in plan.patches:
            modules[str(layer.index)] = Conv(
                layer.inputs, layer.outputs, (4, 4), layer.stride, ((1, 1), (1, 1)), use_bias=layer.bias
            )
            if layer.normed and plan.norm == "batch":
                modules[str(layer.index + 1)] = Affine(layer.outputs)
        self.main = nnx.Dict(modules)
        self.plan = plan

    def __call__(self, x: Array) -> tuple[Array, dict[str, Array]]:
        """Pictures (B, H, W, C) -> logits (B, h, w, 1) in at least float32, high for real pictures, and a
        dict with `mean.<i>` and `variance.<i>` (biased) of every batch norm, each (C,)."""
        y = x
        aux: dict[str, Array] = {}
        for layer in self.plan.patches:
            y = self.main[str(layer.index)](y)
            if layer.normed and self.plan.norm != "none":
                axes = (0, 1, 2) if self.plan.norm == "batch" else (1, 2)
                dtype, y = y.dtype, at_least_float32(y)
                variance, mean = y.var(axes, keepdims=True), y.mean(axes, keepdims=True)
                y = (y - mean) * lax.rsqrt(variance + EPSILON)
                if self.plan.norm == "batch":
                    name = str(layer.index + 1)
                    y = self.main[name](y)
                    aux |= {f"mean.{name}": mean.reshape(-1), f"variance.{name}": variance.reshape(-1)}
                y = y.astype(dtype)
            if layer is not self.plan.patches[-1]:
                y = _leaky_relu(y)
        return at_least_float32(y), aux


class Affine(nnx.Module):
    """A scale and a shift per channel, after a norm: (B, H, W, C) -> the same."""

    def __init__(self, channels: int) -> None:
        self.scale = nnx.Param(jnp.zeros(channels))
        self.bias = nnx.Param(jnp.zeros(channels))

    def __call__(self, x: Array) -> Array:
        scale, bias = (rearrange(param[...], "c -> 1 1 1 c") for param in (self.scale, self.bias))
        return x * scale + bias


class ResidualDiscriminator(nnx.Module):
    """Residual blocks that halve the pictures down to 4x4, then two dense layers."""

    def __init__(self, plan: DiscriminatorPlan) -> None:
        widths, last = plan.widths, plan.widths[-1]
        self.input = Conv(plan.channels, widths[0], (3, 3))
        self.blocks = nnx.List(
            [ResidualBlock(inputs, outputs, plan.blur) for inputs, outputs in pairwise(widths)]
        )
        self.conv = Conv(last, last, (3, 3))
        self.dense = Linear(16 * last, last)
        self.output = Linear(last, 1)

    def __call__(self, x: Array) -> tuple[Array, dict[str, Array]]:
        """Pictures (B, H, W, C) -> logits (B, 1, 1, 1) in at least float32, high for real
        pictures, and an empty dict."""
        y = _leaky_relu(self.input(x))
        for block in self.blocks:
            y = block(y)
        y = _leaky_relu(self.conv(y))
        y = _leaky_relu(self.dense(rearrange(y, "b h w c -> b (c h w)")))
        return at_least_float32(rearrange(self.output(y), "b c -> b 1 1 c")), {}


class ResidualBlock(nnx.Module):
    """(B, H, W, I) -> (B, H / 2, W / 2, O)."""

    def __init__(self, inputs: int, outputs: int, blur: bool) -> None:
        self.conv1 = Conv(inputs, inputs, (3, 3))
        self.conv2 = Conv(inputs, outputs, (3, 3))
        self.shortcut = Linear(inputs, outputs, use_bias=False)
        self.blur = blur

    def __call__(self, x: Array) -> Array:
        y = halved(_leaky_relu(self.conv1(x)), blur=self.blur)
        y = _leaky_relu(self.conv2(y))
        total: Array = (self.shortcut(halved(x, blur=self.blur)) + y) / sqrt(2)
        return total


def halved(x: Array, *, blur: bool) -> Array:
    """Half the resolution, by the mean of 2x2 pixels or, with `blur`, by every second pixel after a blur with
    [1, 3, 3, 1] / 8 along both axes: (B, H, W, C) -> (B, H / 2, W / 2, C)."""
    if not blur:
        return reduce(x, "b (h s) (w t) c -> b h w c", "mean", s=2, t=2)
    return blurred(x, BLUR, (1, 1))


class StagedDiscriminator(nnx.Module):
    """A convolution and stages of convolution, half the resolution, group norm and leaky ReLU, then logits of
    16x16 positions (Weber et al. 2024, MaskBit, appendix)."""

    def __init__(self, plan: DiscriminatorPlan) -> None:
        first, last = plan.stages[0][0], plan.stages[-1][1]
        self.block_in = nnx.List([Conv(plan.channels, first, (5, 5))])
        self.blocks = nnx.List(
            [
                nnx.Dict({"0": Conv(inputs, outputs, (3, 3)), "2": GroupNorm(outputs, STAGE_GROUPS, EPSILON)})
                for inputs, outputs in plan.stages
            ]
        )
        self.to_logits = nnx.Dict({"0": Linear(last, last), "2": Conv(last, 1, (5, 5))})
        self.plan = plan

    def __call__(self, x: Array) -> tuple[Array, dict[str, Array]]:
        """Pictures (B, H, W, C) -> logits (B, 16, 16, 1) in at least float32, high for real pictures, and an
        empty dict."""
        plan = self.plan
        y = _leaky_relu(self.block_in[0](x), STAGE_LEAK)
        for block in self.blocks:
            y = block["0"](y)
            y = blurred(y, plan.taps, plan.blur_edges) if plan.blur else halved(y, blur=False)
            y = _leaky_relu(block["2"](y), STAGE_LEAK)
        y = _leaky_relu(self.to_logits["0"](_max_pooled(y, LOGITS_SIDE)), STAGE_LEAK)
        return at_least_float32(self.to_logits["2"](y)), {}


def blurred(x: Array, taps: tuple[float, ...], edges: tuple[int, int]) -> Array:
    """Every second pixel after a blur along both axes, with zeros at the edges, before and after:
    (B, H, W, C) -> (B, H / 2, W / 2, C)."""
    kernel, (n, C) = jnp.asarray(taps, x.dtype), (len(taps), x.shape[-1])
    kernel = jnp.broadcast_to(rearrange(jnp.outer(kernel, kernel), "h w -> h w 1 1"), (n, n, 1, C))
    layout = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        x, kernel, (2, 2), (edges, edges), dimension_numbers=layout, feature_group_count=C
    )


def build_discriminator(plan: DiscriminatorPlan | None) -> nnx.Module | None:
    """The discriminator of a plan, with uninitialised parameters; None without a plan."""
    if plan is None:
        return None
    if plan.contrast is not None:
        return ContrastiveDiscriminator(plan.contrast)
    if plan.stages:
        return StagedDiscriminator(plan)
    return PatchDiscriminator(plan) if plan.patches else ResidualDiscriminator(plan)


def _leaky_relu(x: Array, slope: float = LEAK) -> Array:
    """With the slope also at 0, as in PyTorch."""
    return jnp.where(x > 0, x, slope * x)


def _max_pooled(x: Array, side: int) -> Array:
    """The largest value of each of side x side bins, which overlap if there are more of them than pixels, as
    PyTorch's `adaptive_max_pool2d`: (B, H, W, C) -> (B, side, side, C)."""
    for axis in (1, 2):
        n = x.shape[axis]
        bins = [(i * n // side, -(-(i + 1) * n // side)) for i in range(side)]
        x = jnp.stack([lax.slice_in_dim(x, *ends, axis=axis).max(axis) for ends in bins], axis)
    return x
