"""Blocks of Metroplex: convolutional, as in VD-VAE (Child 2021, figure 3), or with variational attention.

Maps are NHWC, for sounds (B, L, C), for clips (B, T, H, W, C). A bottom-up block maps features to features; a
top-down block also returns its latent group's statistics and latents.
"""

import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax import Array

from dioscuri.families.latent_models.protocols import LatentModel
from dioscuri.families.metroplex.blocks import (
    AttentionDownBlock,
    AttentionUpBlock,
    DownBlock,
    SelfAttention,
    UpBlock,
)
from dioscuri.families.metroplex.plan import MetroplexPlan
from jax_impl.layers.attention import Attention
from jax_impl.layers.cells import ACTIVATIONS, ResidualCell
from jax_impl.layers.convolution import convolution
from jax_impl.layers.dense import Linear
from jax_impl.layers.grids import average_pool
from jax_impl.layers.latents import Context, Gaussian, LatentGroup, gaussian, with_class
from jax_impl.layers.norms import ChannelNorm
from jax_impl.layers.precision import at_least_float32
from jax_impl.layers.relative_attention import RelativeAttention, scaled


class UpConvolutions(nnx.Module):
    """Bottom-up block: a cell, average pooling, then added zero channels."""

    def __init__(self, block: UpBlock) -> None:
        self.attention = PixelAttention(block.attention) if block.attention else None
        self.cell = ResidualCell(block.cell)
        self.block = block

    def __call__(self, x: Array) -> Array:
        x = self.cell(x if self.attention is None else self.attention(x))
        if max(self.block.pool) > 1:
            x = average_pool(x, self.block.pool)
        return with_channels(x, self.block.out_channels)


class DownConvolutions(LatentGroup):
    """Top-down block: prior, posterior if there is an activation, and projection of the latents."""

    def __init__(self, block: DownBlock, options: LatentModel, class_width: int) -> None:
        self.attention = PixelAttention(block.attention) if block.attention else None
        self.class_projection = Linear(class_width, block.channels, use_bias=False) if class_width else None
        self.posterior = ResidualCell(block.posterior)
        self.prior = ResidualCell(block.prior)
        self.z_projection = convolution(block.variates, block.channels, (1,) * len(block.grid))
        self.residual = ResidualCell(block.residual)
        self.block, self.options = block, options

    def read_prior(self, x: Array, condition: Array | None) -> tuple[Context, Gaussian]:
        x = x if self.attention is None else self.attention(x)
        x = with_class(x, self.class_projection, condition)
        variates = self.block.variates
        mean, scale, features = jnp.split(self.prior(x), [variates, 2 * variates], -1)
        return Context(x, features), Gaussian(at_least_float32(mean), at_least_float32(scale))

    def read_posterior(self, context: Context, activation: Array, prior: Gaussian) -> Gaussian:
        del prior
        statistics = at_least_float32(self.posterior(jnp.concatenate([context.x, activation], -1)))
        return Gaussian(*jnp.split(statistics, 2, -1))

    def add_latents(self, context: Context, z: Array) -> Array:
        x, features = context
        return self.residual(x + features + self.z_projection(z.astype(x.dtype)))


class UpAttention(nnx.Module):
    """Bottom-up block: self-attention and a feed-forward net."""

    def __init__(self, block: AttentionUpBlock, activation: str, *, gated: bool) -> None:
        width = block.attention.width
        self.attention = RelativeAttention(block.attention, gated=gated)
        self.feed_forward = FeedForward(width, block.attention, activation, gated=gated)

    def __call__(self, x: Array) -> Array:
        x = x + self.attention(x)
        return x + self.feed_forward(x)


class DownAttention(LatentGroup):
    """Top-down block: the posterior's queries come from the generative state, its keys and values from the
    encoder's activation."""

    def __init__(self, block: AttentionDownBlock, options: LatentModel, plan: MetroplexPlan) -> None:
        width, variates, pointwise = block.channels, block.variates, (1,) * len(block.grid)
        activation, gated, class_width = plan.gelu, plan.gated, plan.class_width
        self.class_projection = Linear(class_width, width, use_bias=False) if class_width else None
        self.attention = RelativeAttention(block.attention, gated=gated)
        self.prior_layer = convolution(width, 2 * variates, pointwise)
        self.posterior = posterior_net(block, activation, gated=gated)
        self.posterior_layer = convolution(width, 2 * variates, pointwise)
        self.z_projection = convolution(variates, width, pointwise)
        self.feed_forward = FeedForward(width, block.attention, activation, gated=gated)
        self.block, self.options = block, options

    def read_prior(self, x: Array, condition: Array | None) -> tuple[Context, Gaussian]:
        x = with_class(x, self.class_projection, condition)
        attended = x + self.attention(x)
        prior = gaussian(self.prior_layer(attended), self.options)
        return Context(x if self.block.attends_in_prior else attended, attended), prior

    def read_posterior(self, context: Context, activation: Array, prior: Gaussian) -> Gaussian:
        del prior
        x = context.x
        inputs = (
            (x, activation) if self.block.posterior == "attn" else (jnp.concatenate([x, activation], -1),)
        )
        return gaussian(self.posterior_layer(self.posterior(*inputs) + x), self.options)

    def add_latents(self, context: Context, z: Array) -> Array:
        x = self.z_projection(z.astype(context.x.dtype)) + context.features
        return x + self.feed_forward(x)


class FeedForward(nnx.Module):
    """Two dense layers on every token, four times as wide inside: (B, ..., I) -> (B, ..., C)."""

    def __init__(
        self,
        inputs: int,
        plan: SelfAttention,
        activation: str,
        *,
        gated: bool,
    ) -> None:
        sizes, pointwise = ((inputs, 4 * plan.width), (4 * plan.width, plan.width)), (1,) * len(plan.grid)
        self.convs = nnx.List([convolution(i, o, pointwise) for i, o in sizes])
        self.norm = ChannelNorm(inputs) if plan.norm else None
        if gated:
            self.gate = nnx.Param(jnp.zeros(1))
        self.gated, self.activate = gated, ACTIVATIONS[activation]

    def __call__(self, x: Array) -> Array:
        x = x if self.norm is None else self.norm(x)
        return scaled(self.convs[1](self.activate(self.convs[0](x))), self.gate[...] if self.gated else None)


class PixelAttention(Attention):
    """x + self-attention / sqrt(C), over all tokens or within each row: (B, ..., C) -> (B, ..., C)."""

    def __init__(self, plan: SelfAttention) -> None:
        super().__init__(plan.width, plan.heads, bias=True)
        self.plan = plan

    def __call__(self, x: Array) -> Array:  # type: ignore[override]  # attends to itself alone
        B, C = len(x), x.shape[-1]
        if self.plan.rows:
            y = super().__call__(rearrange(x, "b h w c -> (b h) w c"))
            y = rearrange(y, "(b h) w c -> b h w c", b=B)
        else:
            y = super().__call__(rearrange(x, "b ... c -> b (...) c"))
            y = y.reshape(x.shape)
        return x + y * C**-0.5


def posterior_net(block: AttentionDownBlock, activation: str, *, gated: bool) -> nnx.Module:
    """The posterior's network: attention, convolutions or a feed-forward net."""
    if block.posterior == "attn":
        return RelativeAttention(block.attention, cross=True, gated=gated)
    if block.posterior_cell is not None:
        return ResidualCell(block.posterior_cell)
    return FeedForward(2 * block.channels, block.attention, activation, gated=gated)


def with_channels(x: Array, channels: int) -> Array:
    """x with `channels` channels: the rest cut off, or zero ones added."""
    missing = channels - x.shape[-1]
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, missing)]) if missing > 0 else x[..., :channels]
