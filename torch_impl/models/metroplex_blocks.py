"""Blocks of Metroplex: convolutional, as in VD-VAE (Child 2021, figure 3), or with variational attention.

Maps are NCHW, for sounds (B, C, L), for clips (B, C, T, H, W). A bottom-up block maps features to features; a
top-down block also returns its latent group's statistics and latents.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from dioscuri.families.latent_models.protocols import LatentModel
from dioscuri.families.metroplex.blocks import (
    AttentionDownBlock,
    AttentionUpBlock,
    DownBlock,
    SelfAttention,
    UpBlock,
)
from dioscuri.families.metroplex.plan import MetroplexPlan
from torch_impl.layers.attention import Attention
from torch_impl.layers.cells import ACTIVATIONS, ResidualCell
from torch_impl.layers.convolution import convolution
from torch_impl.layers.grids import average_pool
from torch_impl.layers.latents import Context, Gaussian, LatentGroup, gaussian, with_class
from torch_impl.layers.norms import ChannelNorm
from torch_impl.layers.precision import at_least_float32
from torch_impl.layers.relative_attention import RelativeAttention, scaled


class UpConvolutions(nn.Module):
    """Bottom-up block: a cell, average pooling, then added zero channels."""

    def __init__(self, block: UpBlock) -> None:
        super().__init__()
        self.attention = PixelAttention(block.attention) if block.attention else None
        self.cell = ResidualCell(block.cell)
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        x = self.cell(x if self.attention is None else self.attention(x))
        if max(self.block.pool) > 1:
            x = average_pool(x, self.block.pool)
        return with_channels(x, self.block.out_channels)


class DownConvolutions(LatentGroup):
    """Top-down block: prior, posterior if there is an activation, and projection of the latents."""

    def __init__(self, block: DownBlock, options: LatentModel, class_width: int) -> None:
        super().__init__()
        self.attention = PixelAttention(block.attention) if block.attention else None
        self.class_projection = nn.Linear(class_width, block.channels, bias=False) if class_width else None
        self.posterior = ResidualCell(block.posterior)
        self.prior = ResidualCell(block.prior)
        self.z_projection = convolution(block.variates, block.channels, (1,) * len(block.grid))
        self.residual = ResidualCell(block.residual)
        self.block, self.options = block, options

    def read_prior(self, x: Tensor, condition: Tensor | None) -> tuple[Context, Gaussian]:
        x = x if self.attention is None else self.attention(x)
        x = with_class(x, self.class_projection, condition)
        variates = self.block.variates
        mean, scale, features = self.prior(x).split([variates, variates, self.block.channels], 1)
        return Context(x, features), Gaussian(at_least_float32(mean), at_least_float32(scale))

    def read_posterior(self, context: Context, activation: Tensor, prior: Gaussian) -> Gaussian:
        del prior
        statistics = at_least_float32(self.posterior(torch.cat([context.x, activation], 1)))
        return Gaussian(*statistics.chunk(2, 1))

    def add_latents(self, context: Context, z: Tensor) -> Tensor:
        x, features = context
        return self.residual(x + features + self.z_projection(z.to(x.dtype)))


class UpAttention(nn.Module):
    """Bottom-up block: self-attention and a feed-forward net."""

    def __init__(self, block: AttentionUpBlock, activation: str, *, gated: bool) -> None:
        super().__init__()
        width = block.attention.width
        self.attention = RelativeAttention(block.attention, gated=gated)
        self.feed_forward = FeedForward(width, block.attention, activation, gated=gated)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(x)
        return x + self.feed_forward(x)


class DownAttention(LatentGroup):
    """Top-down block: the posterior's queries come from the generative state, its keys and values from the
    encoder's activation."""

    def __init__(self, block: AttentionDownBlock, options: LatentModel, plan: MetroplexPlan) -> None:
        super().__init__()
        width, variates, pointwise = block.channels, block.variates, (1,) * len(block.grid)
        activation, gated, class_width = plan.gelu, plan.gated, plan.class_width
        self.class_projection = nn.Linear(class_width, width, bias=False) if class_width else None
        self.attention = RelativeAttention(block.attention, gated=gated)
        self.prior_layer = convolution(width, 2 * variates, pointwise)
        self.posterior = posterior_net(block, activation, gated=gated)
        self.posterior_layer = convolution(width, 2 * variates, pointwise)
        self.z_projection = convolution(variates, width, pointwise)
        self.feed_forward = FeedForward(width, block.attention, activation, gated=gated)
        self.block, self.options = block, options

    def read_prior(self, x: Tensor, condition: Tensor | None) -> tuple[Context, Gaussian]:
        x = with_class(x, self.class_projection, condition)
        attended = x + self.attention(x)
        prior = gaussian(self.prior_layer(attended), self.options)
        return Context(x if self.block.attends_in_prior else attended, attended), prior

    def read_posterior(self, context: Context, activation: Tensor, prior: Gaussian) -> Gaussian:
        del prior
        x = context.x
        inputs = (x, activation) if self.block.posterior == "attn" else (torch.cat([x, activation], 1),)
        return gaussian(self.posterior_layer(self.posterior(*inputs) + x), self.options)

    def add_latents(self, context: Context, z: Tensor) -> Tensor:
        x = self.z_projection(z.to(context.x.dtype)) + context.features
        return x + self.feed_forward(x)


class FeedForward(nn.Module):
    """Two dense layers on every token, four times as wide inside: (B, I, ...) -> (B, C, ...)."""

    def __init__(
        self,
        inputs: int,
        plan: SelfAttention,
        activation: str,
        *,
        gated: bool,
    ) -> None:
        super().__init__()
        sizes, pointwise = ((inputs, 4 * plan.width), (4 * plan.width, plan.width)), (1,) * len(plan.grid)
        self.convs = nn.ModuleList([convolution(i, o, pointwise) for i, o in sizes])
        self.norm = ChannelNorm(inputs) if plan.norm else None
        if gated:
            self.gate = nn.Parameter(torch.zeros(1))
        self.gated, self.activate = gated, ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.norm is None else self.norm(x)
        return scaled(self.convs[1](self.activate(self.convs[0](x))), self.gate if self.gated else None)


class PixelAttention(Attention):
    """x + self-attention / sqrt(C), over all tokens or within each row: (B, C, ...) -> (B, C, ...)."""

    def __init__(self, plan: SelfAttention) -> None:
        super().__init__(plan.width, plan.heads, bias=True)
        self.plan = plan

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]  # attends to itself alone
        B, C = x.shape[:2]
        if self.plan.rows:
            y = super().forward(rearrange(x, "b c h w -> (b h) w c"))
            y = rearrange(y, "(b h) w c -> b c h w", b=B)
        else:
            y = super().forward(rearrange(x, "b c ... -> b (...) c"))
            y = rearrange(y, "b l c -> b c l").unflatten(-1, self.plan.grid)
        return x + y * C**-0.5


def posterior_net(block: AttentionDownBlock, activation: str, *, gated: bool) -> nn.Module:
    """The posterior's network: attention, convolutions or a feed-forward net."""
    if block.posterior == "attn":
        return RelativeAttention(block.attention, cross=True, gated=gated)
    if block.posterior_cell is not None:
        return ResidualCell(block.posterior_cell)
    return FeedForward(2 * block.channels, block.attention, activation, gated=gated)


def with_channels(x: Tensor, channels: int) -> Tensor:
    """x with `channels` channels: the rest cut off, or zero ones added."""
    missing = channels - x.shape[1]
    return F.pad(x, (0, 0) * (x.ndim - 2) + (0, missing)) if missing > 0 else x[:, :channels]
