"""Metroplex: VD-VAE (Child 2021) on patches of pixels, of convolutions or with variational attention.

With patches of one pixel the model of convolutions is VD-VAE. Arrays are NHWC.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange, repeat
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from common.hparams.families.metroplex import Model
from common.plans.metroplex import MetroplexPlan
from common.plans.sinusoids import sinusoids
from jax_impl.layers.convolution import Conv2d
from jax_impl.layers.dense import along
from jax_impl.layers.precision import at_least_float32, cast
from jax_impl.models.metroplex_blocks import (
    DownAttention,
    DownConvolutions,
    UpAttention,
    UpConvolutions,
    with_channels,
)
from jax_impl.pretrained import Pretrained

Arrays = Mapping[str, Array]
Masks = Sequence[Array] | None


class Metroplex(Pretrained, nnx.Module):
    """The model. `dtype` is that of the network's arithmetic, None: as the input.

    `checkpoint` recomputes every block in the backward pass to save memory, with the same noise.
    """

    def __init__(
        self,
        plan: MetroplexPlan,
        options: Model,
        *,
        dtype: DTypeLike | None = None,
        checkpoint: bool = False,
    ) -> None:
        self.bottom_up = BottomUp(plan, options, dtype, checkpoint)
        self.top_down = TopDown(plan, options, dtype, checkpoint)

    def __call__(self, x: Array, noise: Arrays, masks: Masks = None) -> tuple[Array, dict[str, Array]]:
        """Encode and decode pictures (B, H, W, C).

        `noise` and `masks` are those of `HierarchicalVAE`. Returns the output layer (B, H, W, outputs) and a
        flat dict: `posterior_mean.<l>`, `posterior_scale.<l>`, `prior_mean.<l>`, `prior_scale.<l>` and
        `z.<l>`, each (B, h, w, Z), scales being logarithms; and the head's input `features` (B, h, w, C).
        """
        return self.top_down(noise, self.bottom_up(x), masks=masks)

    def generate(
        self,
        noise: Arrays,
        temperatures: Sequence[float] | Array,
        latents: Arrays | None = None,
        masks: Masks = None,
    ) -> tuple[Array, dict[str, Array]]:
        """Decode latents from the prior, one temperature a group, or given ones `z.<l>`.

        `noise` holds `prior.<l>`, which given latents without masks do not need. Returns as `__call__` does,
        without the posterior's statistics.
        """
        return self.top_down(noise, None, temperatures=temperatures, latents=latents, masks=masks)


class BottomUp(nnx.Module):
    """Encoder: pictures (B, H, W, C) -> the activation (B, h, w, C) that each top-down block reads."""

    def __init__(
        self, plan: MetroplexPlan, options: Model, dtype: DTypeLike | None, checkpoint: bool
    ) -> None:
        side = plan.input_kernel
        self.input_conv = Conv2d(plan.channels * plan.patch**2, plan.width, (side, side), dtype)
        if plan.transformer:
            blocks = [UpAttention(block, plan.gelu, dtype, gated=plan.gated) for block in plan.up]
        else:
            blocks = [UpConvolutions(block, dtype) for block in plan.up]
        self.blocks = nnx.List(blocks)
        self.plan, self.checkpoint = plan, checkpoint
        self.shift, self.scale = options.input_shift + 127.5, options.input_scale

    def __call__(self, x: Array) -> list[Array]:
        plan = self.plan
        x = (x * 127.5 + self.shift) * self.scale
        x = rearrange(x, "b (h i) (w j) c -> b h w (c i j)", i=plan.patch, j=plan.patch)
        x = self.input_conv(x)
        if plan.encoding != "none":
            x = x + positions(plan, x)
        activations = {} if plan.transformer else {plan.side: x}
        for index, block in enumerate(self.blocks):
            x = _call(block, x, checkpoint=self.checkpoint)
            activations[index if plan.transformer else plan.up[index].out_resolution] = x
        return [activations[b.source if plan.transformer else b.resolution] for b in plan.down]


class TopDown(nnx.Module):
    """Decoder: latent groups from the coarsest to the finest, then the head."""

    def __init__(
        self, plan: MetroplexPlan, options: Model, dtype: DTypeLike | None, checkpoint: bool
    ) -> None:
        widths = {block.resolution: block.channels for block in plan.down}
        self.start = nnx.Dict(
            {str(side): nnx.Param(jnp.zeros((1, side, side, widths[side]))) for side in plan.start}
        )
        if plan.transformer:
            blocks = [
                DownAttention(block, options, plan.gelu, dtype, gated=plan.gated) for block in plan.down
            ]
        else:
            blocks = [DownConvolutions(block, options, dtype) for block in plan.down]
        self.blocks = nnx.List(blocks)
        if plan.affine:
            self.gain = nnx.Param(jnp.ones((1, 1, 1, plan.top_width)))
            self.bias = nnx.Param(jnp.zeros((1, 1, 1, plan.top_width)))
        self.output_conv = Conv2d(plan.top_width, plan.head_channels * plan.patch**2, dtype=dtype)
        if plan.shared_scale == "full":
            self.log_scale = nnx.Param(jnp.zeros(1))
        self.plan, self.dtype, self.checkpoint = plan, dtype, checkpoint

    def __call__(
        self,
        noise: Arrays,
        activations: list[Array] | None,
        temperatures: Sequence[float] | Array | None = None,
        latents: Arrays | None = None,
        masks: Masks = None,
    ) -> tuple[Array, dict[str, Array]]:
        given = next(iter({**noise, **(latents or {})}.values()))
        states: dict[int, Array] = {}
        aux: dict[str, Array] = {}
        for group, (block, plan) in enumerate(zip(self.blocks, self.plan.down, strict=True)):
            own = (
                noise.get(f"prior.{group}"),
                noise.get(f"posterior.{group}"),
                None if temperatures is None else temperatures[group],
                None if latents is None else latents[f"z.{group}"],
                None if masks is None else rearrange(masks[group], "z -> 1 1 1 z"),
            )
            x = self._state(states, group, given)
            arguments = (x, None if activations is None else activations[group], own)
            x, found = _call(block, *arguments, checkpoint=self.checkpoint)
            states[plan.resolution] = x
            aux |= {f"{name}.{group}": value for name, value in found.items()}
        features = states[self.plan.side]
        if self.plan.affine:
            features = features * cast(self.gain[...], self.dtype) + cast(self.bias[...], self.dtype)
        return self._head(features), {**aux, "features": at_least_float32(features)}

    def _state(self, states: Mapping[int, Array], group: int, given: Array) -> Array:
        """Features (B, h, w, C) that a block meets: its resolution's state, with a coarser one added."""
        plan, block = self.plan, self.plan.down[group]
        side, channels = block.resolution, block.channels
        x = states.get(side)
        if x is None and side in plan.start:
            x = jnp.broadcast_to(
                cast(self.start[str(side)][...], self.dtype), (len(given), side, side, channels)
            )
            if plan.encoding == "start":
                x = x + positions(plan, x)
        elif x is None:
            x = jnp.zeros((len(given), side, side, channels), self.dtype or given.dtype)
        if plan.transformer or not block.mixin:
            return x
        coarse, factor = with_channels(states[block.mixin], channels), side // block.mixin
        return x + repeat(coarse, "b h w c -> b (h s) (w t) c", s=factor, t=factor)

    def _head(self, features: Array) -> Array:
        """Output layer (B, H, W, outputs): every token tells of all pixels of its patch."""
        plan = self.plan
        y = at_least_float32(self.output_conv(features))
        y = rearrange(y, "b h w (c i j) -> b (h i) (w j) c", i=plan.patch, j=plan.patch)
        if plan.shared_scale == "none":
            return y
        logits, rest = jnp.split(y, [plan.n_mixtures], -1)
        rest = rearrange(rest, "b h w (c k m) -> k b h w c m", c=plan.channels, m=plan.n_mixtures)
        scales = rest[1, ..., :1] if plan.shared_scale == "mixtures" else along(self.log_scale[...], rest[1])
        rest = jnp.concatenate([rest[:1], jnp.broadcast_to(scales, rest.shape[1:])[None], rest[2:]])
        return jnp.concatenate([logits, rearrange(rest, "k b h w c m -> b h w (c k m)")], -1)


def positions(plan: MetroplexPlan, like: Array) -> Array:
    """Sinusoids (1, h, w, C) in dtype and place of a map of features."""
    table = jnp.asarray(sinusoids(plan.width, plan.side), like.dtype)
    return rearrange(table, "h w c -> 1 h w c")


def _call(block: nnx.Module, *arguments: Any, checkpoint: bool) -> Any:
    """A block's result; with `checkpoint` it is computed again in the backward pass."""
    if not checkpoint:
        return block(*arguments)
    return jax.checkpoint(lambda block, *given: block(*given))(block, *arguments)
