"""Discriminators: PatchGAN (Isola et al. 2017, appendix 6.1), StyleGAN2 (Karras et al. 2020, figure 7).

Arrays are NHWC.
"""

from itertools import pairwise
from math import sqrt

import jax.numpy as jnp
from einops import rearrange, reduce
from flax import nnx
from jax import Array, lax
from jax.typing import DTypeLike

from dioscuri.families.vqgan.discriminators import DiscriminatorPlan, PatchLayer
from jax_impl.layers.precision import at_least_float32, cast
from jax_impl.models.dcvae import ContrastiveDiscriminator

LEAK = 0.2
"""Slope of the leaky ReLUs."""
EPSILON = 1e-5
"""Added to the norms' variance."""
BLUR = (0.125, 0.375, 0.375, 0.125)


class PatchDiscriminator(nnx.Module):
    """PatchGAN. Batch norm uses the statistics of the batch; running ones, which training never reads, are
    not kept."""

    def __init__(self, plan: DiscriminatorPlan, dtype: DTypeLike | None = None) -> None:
        modules: dict[str, nnx.Module] = {}
        for layer in plan.patches:
            modules[str(layer.index)] = PatchConvolution(layer, dtype)
            if layer.normed and plan.norm == "batch":
                modules[str(layer.index + 1)] = Affine(layer.outputs)
        self.main = nnx.Dict(modules)
        self.plan = plan

    def __call__(self, x: Array) -> tuple[Array, dict[str, Array]]:
        """Pictures (B, H, W, C) -> logits (B, h, w, 1) in at least float32, high for real ones.

        Beside them `mean.<i>` and `variance.<i>` (biased) of every batch norm, each (C,).
        """
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


class PatchConvolution(nnx.Module):
    """4x4 convolution with padding 1: (B, H, W, I) -> (B, h, w, O)."""

    def __init__(self, layer: PatchLayer, dtype: DTypeLike | None = None) -> None:
        self.kernel = nnx.Param(jnp.zeros((4, 4, layer.inputs, layer.outputs)))
        self.bias = nnx.Param(jnp.zeros(layer.outputs)) if layer.bias else None
        self.stride, self.dtype = layer.stride, dtype

    def __call__(self, x: Array) -> Array:
        y = _convolve(cast(x, self.dtype), cast(self.kernel[...], self.dtype), 1, self.stride)
        return y if self.bias is None else y + rearrange(cast(self.bias[...], self.dtype), "o -> 1 1 1 o")


class Affine(nnx.Module):
    """A factor and a summand a channel, behind a norm: (B, H, W, C) -> the same."""

    def __init__(self, channels: int) -> None:
        self.scale = nnx.Param(jnp.zeros(channels))
        self.bias = nnx.Param(jnp.zeros(channels))

    def __call__(self, x: Array) -> Array:
        scale, bias = (rearrange(param[...], "c -> 1 1 1 c") for param in (self.scale, self.bias))
        return x * scale.astype(x.dtype) + bias.astype(x.dtype)


class ResidualDiscriminator(nnx.Module):
    """Residual blocks that halve the pictures down to 4x4, then two dense layers."""

    def __init__(self, plan: DiscriminatorPlan, dtype: DTypeLike | None = None) -> None:
        widths, last = plan.widths, plan.widths[-1]
        self.input = Convolution(plan.channels, widths[0], 3, dtype)
        self.blocks = nnx.List(
            [ResidualBlock(inputs, outputs, plan.blur, dtype) for inputs, outputs in pairwise(widths)]
        )
        self.conv = Convolution(last, last, 3, dtype)
        self.dense = Dense(16 * last, last, dtype)
        self.output = Dense(last, 1, dtype)

    def __call__(self, x: Array) -> tuple[Array, dict[str, Array]]:
        """Pictures (B, H, W, C) -> logits (B, 1, 1, 1) in at least float32, high for real ones; no
        intermediates."""
        y = _leaky_relu(self.input(x))
        for block in self.blocks:
            y = block(y)
        y = _leaky_relu(self.conv(y))
        y = _leaky_relu(self.dense(rearrange(y, "b h w c -> b (c h w)")))
        return at_least_float32(rearrange(self.output(y), "b c -> b 1 1 c")), {}


class ResidualBlock(nnx.Module):
    """(B, H, W, I) -> (B, H / 2, W / 2, O)."""

    def __init__(self, inputs: int, outputs: int, blur: bool, dtype: DTypeLike | None = None) -> None:
        self.conv1 = Convolution(inputs, inputs, 3, dtype)
        self.conv2 = Convolution(inputs, outputs, 3, dtype)
        self.shortcut = Convolution(inputs, outputs, 1, dtype)
        self.blur = blur

    def __call__(self, x: Array) -> Array:
        y = halved(_leaky_relu(self.conv1(x)), blur=self.blur)
        y = _leaky_relu(self.conv2(y))
        total: Array = (self.shortcut(halved(x, blur=self.blur)) + y) / sqrt(2)
        return total


class Convolution(nnx.Module):
    """Convolution that keeps the resolution; with a bias unless it is 1x1: (B, H, W, I) -> (B, H, W, O)."""

    def __init__(self, inputs: int, outputs: int, side: int, dtype: DTypeLike | None = None) -> None:
        self.kernel = nnx.Param(jnp.zeros((side, side, inputs, outputs)))
        self.bias = nnx.Param(jnp.zeros(outputs)) if side > 1 else None
        self.padding, self.dtype = side // 2, dtype

    def __call__(self, x: Array) -> Array:
        y = _convolve(cast(x, self.dtype), cast(self.kernel[...], self.dtype), self.padding)
        return y if self.bias is None else y + rearrange(cast(self.bias[...], self.dtype), "o -> 1 1 1 o")


class Dense(nnx.Module):
    """(B, I) -> (B, O)."""

    def __init__(self, inputs: int, outputs: int, dtype: DTypeLike | None = None) -> None:
        self.kernel = nnx.Param(jnp.zeros((inputs, outputs)))
        self.bias = nnx.Param(jnp.zeros(outputs))
        self.dtype = dtype

    def __call__(self, x: Array) -> Array:
        x, kernel, bias = (cast(array, self.dtype) for array in (x, self.kernel[...], self.bias[...]))
        return jnp.dot(x, kernel) + rearrange(bias, "o -> 1 o")


def halved(x: Array, *, blur: bool) -> Array:
    """Half the resolution: every second pixel, blurred with [1, 3, 3, 1] / 8 along both axes, or the
    mean of 2x2: (B, H, W, C) -> (B, H / 2, W / 2, C)."""
    if not blur:
        return reduce(x, "b (h s) (w t) c -> b h w c", "mean", s=2, t=2)
    kernel = jnp.asarray(BLUR, x.dtype)
    C = x.shape[-1]
    kernel = jnp.broadcast_to(rearrange(jnp.outer(kernel, kernel), "h w -> h w 1 1"), (4, 4, 1, C))
    return _convolve(x, kernel, 1, 2, groups=C)


def build_discriminator(plan: DiscriminatorPlan | None, dtype: DTypeLike | None = None) -> nnx.Module | None:
    """The discriminator of a plan; its parameters' values do not matter. None where there is none."""
    if plan is None:
        return None
    if plan.contrast is not None:
        return ContrastiveDiscriminator(plan.contrast, dtype)
    return PatchDiscriminator(plan, dtype) if plan.patches else ResidualDiscriminator(plan, dtype)


def _convolve(x: Array, kernel: Array, padding: int, stride: int = 1, groups: int = 1) -> Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        ((padding, padding), (padding, padding)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def _leaky_relu(x: Array) -> Array:
    """With slope LEAK at 0 too, as in PyTorch."""
    return jnp.where(x > 0, x, LEAK * x)
