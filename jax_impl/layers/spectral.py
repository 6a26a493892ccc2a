"""Convolutions divided by their largest singular value (Miyato et al. 2018). Arrays are NHWC."""

from collections.abc import Mapping

import jax.numpy as jnp
from einops import rearrange, reduce
from flax import nnx
from jax import Array, lax
from jax.lax import stop_gradient

from dioscuri.families.vqgan.spectral import SpectralBlock
from jax_impl.layers.convolution import Conv
from jax_impl.layers.named import Arrays
from jax_impl.layers.precision import at_least_float32

EPSILON = 1e-12
LEAK = 0.2
"""Slope of the leaky ReLUs."""


class SpectralConvolution(Conv):
    """conv(x) / sigma + bias: (B, H, W, I) -> (B, h, w, O), with padding (kernel - 1) / 2.

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
        edges = ((kernel - 1) // 2,) * 2
        super().__init__(inputs, outputs, (kernel, kernel), stride, (edges, edges), use_bias=bias)
        self.window = (stride, stride), (edges, edges)
        if stored:
            self.sigma = nnx.Param(jnp.ones(1))

    def __call__(self, x: Array, sigma: Array | None = None) -> Array:
        strides, padding = self.window
        layout = ("NHWC", "HWIO", "NHWC")
        kernel = self.kernel[...]
        x = x.astype(kernel.dtype)
        y = lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=layout)
        sigma = stop_gradient(self.sigma[...]) if sigma is None else sigma
        y = y / rearrange(sigma.astype(y.dtype), "o -> 1 1 1 o")
        return y if self.bias is None else y + rearrange(self.bias[...], "o -> 1 1 1 o")


class SpectralResidual(nnx.Module):
    """Two convolutions with a shortcut, divided by sqrt(2); a leaky ReLU before (`first`) or after each:
    (B, H, W, I) -> (B, h, w, O)."""

    def __init__(self, block: SpectralBlock, *, biased: bool, stored: bool, first: bool) -> None:
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

    def __call__(self, x: Array, sigmas: Arrays) -> Array:
        y = x
        for name, conv in (("conv1", self.conv1), ("conv2", self.conv2)):
            y = conv(_leaky_relu(y) if self.first else y, sigmas.get(name))
            y = y if self.first else _leaky_relu(y)
        shortcut = self.shortcut(x, sigmas.get("shortcut"))
        if self.block.halves:
            shortcut = reduce(shortcut, "b (h s) (w t) c -> b h w c", "mean", s=2, t=2)
        total: Array = (y + shortcut) * 0.5**0.5
        return total


def iterated(layers: Mapping[str, SpectralConvolution], vectors: Arrays) -> tuple[dict[str, Array], ...]:
    """Differentiable singular values (1,) of the layers' kernels after one power iteration from the vectors
    (O,), and the new vectors."""
    sigmas, new = {}, {}
    for name, layer in layers.items():
        matrix = rearrange(at_least_float32(layer.kernel[...]), "h w i o -> (i h w) o")
        constant = stop_gradient(matrix)
        left = _unit(constant @ vectors[name].astype(matrix.dtype))
        new[name] = _unit(left @ constant)
        sigmas[name] = rearrange(left @ matrix @ new[name], " -> 1")
    return sigmas, new


def _leaky_relu(x: Array) -> Array:
    """With slope LEAK also at 0, as in PyTorch."""
    return jnp.where(x > 0, x, LEAK * x)


def _unit(x: Array) -> Array:
    return x * lax.rsqrt(jnp.square(x).sum() + EPSILON)
