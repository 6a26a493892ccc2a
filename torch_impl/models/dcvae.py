"""DC-VAE (Parmar et al. 2021) with codes: encoder and decoder for `torch_impl.models.vqgan`, and its critic.

The generator's encoder and the whole discriminator divide their kernels by singular values, which are
arguments, by layer name; the encoder's are also stored.
"""

from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from dioscuri.families.vqgan.plan import TokenizerPlan
from dioscuri.families.vqgan.spectral import HIDDEN, STEM, ContrastPlan, SpectralBlock
from torch_impl.layers.named import Tensors, under
from torch_impl.layers.precision import at_least_float32
from torch_impl.layers.spectral import LEAK, SpectralConvolution, SpectralResidual
from torch_impl.layers.stack import call
from torch_impl.models.metroplex_blocks import with_channels

PREFIX = "sigma.encoder"
"""Prefix of singular values in the encoder's noise."""


class SpectralEncoder(nn.Module):
    """(B, C, H, W) -> (B, z_channels, h, w)."""

    def __init__(self, plan: TokenizerPlan, recomputed: bool) -> None:
        super().__init__()
        assert plan.spectral is not None
        stacks = plan.spectral
        self.conv_in = SpectralConvolution(plan.channels, STEM, 3, bias=stacks.biased, stored=True)
        self.blocks = nn.ModuleList(
            SpectralResidual(block, biased=stacks.biased, stored=True, first=True) for block in stacks.encoder
        )
        self.recomputed = recomputed

    def layers(self) -> dict[str, SpectralConvolution]:
        """All convolutions by name."""
        return {"conv_in": self.conv_in} | _named("blocks", self.blocks)

    def forward(self, x: Tensor, noise: Tensors) -> Tensor:
        """In training, the noise holds singular values `sigma.encoder.<layer>`."""
        sigmas = under(noise, PREFIX)
        x = self.conv_in(x, sigmas.get("conv_in"))
        for n, block in enumerate(self.blocks):
            x = call(block, x, under(sigmas, f"blocks.{n}"), checkpoint=self.recomputed)
        return x


class SpectralDecoder(nn.Module):
    """(B, z_channels, h, w) -> (B, F, H, W), the input of the last convolution."""

    def __init__(self, plan: TokenizerPlan, recomputed: bool) -> None:
        super().__init__()
        assert plan.spectral is not None
        blocks, biased = plan.spectral.decoder, plan.spectral.biased
        self.blocks = nn.ModuleList(Doubled(block, biased=biased) for block in blocks)
        self.conv_out = nn.Conv2d(blocks[-1].outputs, plan.channels, 1, bias=biased)
        self.recomputed = recomputed

    def forward(self, x: Tensor, noise: object = None, codes: Tensor | None = None) -> Tensor:
        """Without dropout, and without modulation by the codes."""
        del noise, codes
        for block in self.blocks:
            x = call(block, x, checkpoint=self.recomputed)
        return x


class Doubled(nn.Module):
    """Two convolutions added to the first input channels, then upsampling: (B, I, h, w) -> (B, O, H, W)."""

    def __init__(self, block: SpectralBlock, *, biased: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(block.inputs, block.outputs, 3, padding=1, bias=biased)
        self.conv2 = nn.Conv2d(block.outputs, block.outputs, 3, padding=1, bias=biased)
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.leaky_relu(x, LEAK))
        y = self.conv2(F.leaky_relu(y, LEAK)) + with_channels(x, self.block.outputs)
        return y.repeat_interleave(2, 2).repeat_interleave(2, 3) if self.block.doubles else y


class ContrastiveDiscriminator(nn.Module):
    """Residual blocks with heads at several resolutions: logits, and embeddings for a contrastive loss."""

    def __init__(self, plan: ContrastPlan) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            SpectralResidual(block, biased=plan.biased, stored=False, first=False) for block in plan.blocks
        )

        def layer(inputs: int, outputs: int, *, bias: bool = True, stride: int = 1) -> SpectralConvolution:
            return SpectralConvolution(inputs, outputs, 1, stride=stride, bias=bias)

        E = plan.embedding
        self.last = layer(plan.blocks[-1].outputs, 1, bias=plan.biased, stride=4)
        self.adversarial: Any = nn.ModuleDict(
            {str(head.side): layer(head.channels, 1) for head in plan.adversarial}
        )
        self.patches: Any = nn.ModuleDict({str(head.side): layer(head.channels, E) for head in plan.patches})
        self.globals: Any = nn.ModuleDict(
            {
                str(head.side): nn.ModuleDict(
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

    def forward(self, x: Tensor, sigmas: Tensors) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Pictures (B, H, W, C), singular values of all layers -> logits (B, h, w, 1) of every adversarial
        head, high for real pictures, and unit embeddings, (B, h, w, E) or (B, 1, 1, E), of every contrastive
        head; in at least float32."""
        x = x.to(self.last.weight.dtype)
        maps = self._maps(rearrange(x, "b h w c -> b c h w"), sigmas)

        def through(layer: nn.Module, name: str, x: Tensor) -> Tensor:
            return rearrange(layer(x, sigmas[name]), "b c h w -> b h w c")

        logits = [
            at_least_float32(through(layer, f"adversarial.{side}", maps[int(side)]))
            for side, layer in self.adversarial.items()
        ]
        embeddings = [
            through(layer, f"patches.{side}", maps[int(side)]) for side, layer in self.patches.items()
        ]
        for side, layers in self.globals.items():
            hidden = through(layers["hidden"], f"globals.{side}.hidden", maps[int(side)])
            hidden = rearrange(hidden, "b h w c -> b (h w c) 1 1")
            embeddings.append(through(layers["output"], f"globals.{side}.output", hidden))
        return tuple(logits), tuple(unit_length(embedding) for embedding in embeddings)

    def _maps(self, x: Tensor, sigmas: Tensors) -> dict[int, Tensor]:
        """Maps (B, C, h, w) by side: the inputs of the blocks and, as side 1, the last map."""
        maps = {}
        for n, (block, side) in enumerate(zip(self.blocks, self.plan.tapped, strict=True)):
            if side:
                maps[side] = x
            x = block(x, under(sigmas, f"blocks.{n}"))
        return maps | {1: self.last(x, sigmas["last"])}


def unit_length(x: Tensor) -> Tensor:
    """x / |x + 1e-6| along the last axis, in at least float32."""
    x = at_least_float32(x)
    return x / torch.linalg.vector_norm(x + 1e-6, dim=-1, keepdim=True)


def _named(name: str, blocks: Any) -> dict[str, SpectralConvolution]:
    return {
        f"{name}.{n}.{leaf}": layer
        for n, block in enumerate(blocks)
        for leaf, layer in block.layers().items()
    }
