"""DC-VAE (Parmar et al. 2021) with codes: encoder and decoder for `jax_impl.models.vqgan`, and its critic.

The generator's encoder and the whole discriminator divide their kernels by singular values, which are
arguments, by layer name; the encoder's are also stored.
"""

import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax import Array

from dioscuri.families.vqgan.plan import TokenizerPlan
from dioscuri.families.vqgan.spectral import HIDDEN, STEM, ContrastPlan, SpectralBlock
from jax_impl.layers.convolution import Conv
from jax_impl.layers.dense import Linear
from jax_impl.layers.named import Arrays, under
from jax_impl.layers.precision import at_least_float32
from jax_impl.layers.spectral import LEAK, SpectralConvolution, SpectralResidual
from jax_impl.layers.stack import call
from jax_impl.models.metroplex_blocks import with_channels

PREFIX = "sigma.encoder"
"""Prefix of singular values in the encoder's noise."""


class SpectralEncoder(nnx.Module):
    """(B, H, W, C) -> (B, h, w, z_channels)."""

    def __init__(self, plan: TokenizerPlan, recomputed: bool) -> None:
        assert plan.spectral is not None
        stacks = plan.spectral
        self.conv_in = SpectralConvolution(plan.channels, STEM, 3, bias=stacks.biased, stored=True)
        self.blocks = nnx.List(
            [
                SpectralResidual(block, biased=stacks.biased, stored=True, first=True)
                for block in stacks.encoder
            ]
        )
        self.recomputed = recomputed

    def layers(self) -> dict[str, SpectralConvolution]:
        """All convolutions by name."""
        return {"conv_in": self.conv_in} | _named("blocks", self.blocks)

    def __call__(self, x: Array, noise: Arrays) -> Array:
        """In training, the noise holds singular values `sigma.encoder.<layer>`."""
        sigmas = under(noise, PREFIX)
        x = self.conv_in(x, sigmas.get("conv_in"))
        for n, block in enumerate(self.blocks):
            x = call(block, x, under(sigmas, f"blocks.{n}"), checkpoint=self.recomputed)
        return x


class SpectralDecoder(nnx.Module):
    """(B, h, w, z_channels) -> (B, H, W, F), the input of the last convolution."""

    def __init__(self, plan: TokenizerPlan, recomputed: bool) -> None:
        assert plan.spectral is not None
        blocks, biased = plan.spectral.decoder, plan.spectral.biased
        self.blocks = nnx.List([Doubled(block, biased=biased) for block in blocks])
        self.conv_out = Linear(blocks[-1].outputs, plan.channels, use_bias=biased)
        self.recomputed = recomputed

    def __call__(self, x: Array, noise: object = None, codes: Array | None = None) -> Array:
        """Without dropout, and without modulation by the codes."""
        del noise, codes
        for block in self.blocks:
            x = call(block, x, checkpoint=self.recomputed)
        return x


class Doubled(nnx.Module):
    """Two convolutions added to the first input channels, then upsampling: (B, h, w, I) -> (B, H, W, O)."""

    def __init__(self, block: SpectralBlock, *, biased: bool) -> None:
        self.conv1 = Conv(block.inputs, block.outputs, (3, 3), use_bias=biased)
        self.conv2 = Conv(block.outputs, block.outputs, (3, 3), use_bias=biased)
        self.block = block

    def __call__(self, x: Array) -> Array:
        y = self.conv1(_leaky_relu(x))
        y = self.conv2(_leaky_relu(y)) + with_channels(x, self.block.outputs)
        return y.repeat(2, 1).repeat(2, 2) if self.block.doubles else y


class ContrastiveDiscriminator(nnx.Module):
    """Residual blocks with heads at several resolutions: logits, and embeddings for a contrastive loss."""

    def __init__(self, plan: ContrastPlan) -> None:
        self.blocks = nnx.List(
            [SpectralResidual(block, biased=plan.biased, stored=False, first=False) for block in plan.blocks]
        )

        def layer(inputs: int, outputs: int, *, bias: bool = True, stride: int = 1) -> SpectralConvolution:
            return SpectralConvolution(inputs, outputs, 1, stride=stride, bias=bias)

        E = plan.embedding
        self.last = layer(plan.blocks[-1].outputs, 1, bias=plan.biased, stride=4)
        self.adversarial = nnx.Dict({str(head.side): layer(head.channels, 1) for head in plan.adversarial})
        self.patches = nnx.Dict({str(head.side): layer(head.channels, E) for head in plan.patches})
        self.globals = nnx.Dict(
            {
                str(head.side): nnx.Dict(
                    {"hidden": layer(head.channels, HIDDEN), "output": layer(HIDDEN * head.side**2, E)}
                )
                for head in plan.globals
            }
        )
        self.plan = plan

    def layers(self) -> dict[str, SpectralConvolution]:
        """All convolutions by name."""
        layers = _named("blocks", self.blocks) | {"last": self.last}
        layers |= {f"adversarial.{side}": layer for side, layer in self.adversarial.items()}
        layers |= {f"patches.{side}": layer for side, layer in self.patches.items()}
        for side, pair in self.globals.items():
            layers |= {f"globals.{side}.{name}": pair[name] for name in ("hidden", "output")}
        return layers

    def __call__(self, x: Array, sigmas: Arrays) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        """Pictures (B, H, W, C), singular values of all layers -> logits (B, h, w, 1) of every adversarial
        head, high for real pictures, and unit embeddings, (B, h, w, E) or (B, 1, 1, E), of every contrastive
        head; in at least float32."""
        maps = self._maps(x, sigmas)

        def through(layer: nnx.Module, name: str, x: Array) -> Array:
            return layer(x, sigmas[name])

        logits = [
            at_least_float32(through(layer, f"adversarial.{side}", maps[int(side)]))
            for side, layer in self.adversarial.items()
        ]
        embeddings = [
            through(layer, f"patches.{side}", maps[int(side)]) for side, layer in self.patches.items()
        ]
        for side, layers in self.globals.items():
            hidden = through(layers["hidden"], f"globals.{side}.hidden", maps[int(side)])
            hidden = rearrange(hidden, "b h w c -> b 1 1 (h w c)")
            embeddings.append(through(layers["output"], f"globals.{side}.output", hidden))
        return tuple(logits), tuple(unit_length(embedding) for embedding in embeddings)

    def _maps(self, x: Array, sigmas: Arrays) -> dict[int, Array]:
        """Maps (B, h, w, C) by side: the inputs of the blocks and, as side 1, the last map."""
        maps = {}
        for n, (block, side) in enumerate(zip(self.blocks, self.plan.tapped, strict=True)):
            if side:
                maps[side] = x
            x = block(x, under(sigmas, f"blocks.{n}"))
        return maps | {1: self.last(x, sigmas["last"])}


def unit_length(x: Array) -> Array:
    """x / |x + 1e-6| along the last axis, in at least float32."""
    x = at_least_float32(x)
    return x / jnp.sqrt(jnp.square(x + 1e-6).sum(-1, keepdims=True))


def _named(name: str, blocks: nnx.List) -> dict[str, SpectralConvolution]:
    return {
        f"{name}.{n}.{leaf}": layer
        for n, block in enumerate(blocks)
        for leaf, layer in block.layers().items()
    }


def _leaky_relu(x: Array) -> Array:
    """With slope LEAK also at 0, as in PyTorch."""
    return jnp.where(x > 0, x, LEAK * x)
