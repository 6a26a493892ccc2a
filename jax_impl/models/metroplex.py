"""Metroplex: VD-VAE (Child 2021) on patches of pixels, convolutional or with variational attention.

With patches of one pixel, the convolutional model is VD-VAE. Arrays are NHWC. Sounds (B, L, C) and clips
(B, T, H, W, C) are treated alike: the plan says how many axes there are.
"""

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax import Array

from dioscuri.families.metroplex.blocks import DownBlock, UpBlock
from dioscuri.families.metroplex.options import Model
from dioscuri.families.metroplex.plan import MetroplexPlan
from dioscuri.families.metroplex.sinusoids import sinusoids
from jax_impl.layers.convolution import convolution
from jax_impl.layers.dense import Embedding, broadcast
from jax_impl.layers.grids import enlarge, from_tokens, to_tokens
from jax_impl.layers.latents import class_condition
from jax_impl.layers.precision import at_least_float32, weights_dtype
from jax_impl.layers.stack import call
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
    """The model, which computes in its parameters' dtype.

    `checkpoint` recomputes every block in the backward pass to save memory, with the same noise.
    """

    def __init__(
        self,
        plan: MetroplexPlan,
        options: Model,
        *,
        checkpoint: bool = False,
    ) -> None:
        self.bottom_up = BottomUp(plan, options, checkpoint)
        self.top_down = TopDown(plan, options, checkpoint)

    def __call__(
        self, x: Array, noise: Arrays, masks: Masks = None, label: Array | None = None
    ) -> tuple[Array, dict[str, Array]]:
        """Encode and decode pictures (B, H, W, C), sounds or clips.

        `noise`, `masks` and `label` are as for `HierarchicalVAE`. Returns the output layer
        (B, H, W, outputs) and a flat dict with `posterior_mean.<l>`, `posterior_scale.<l>`,
        `prior_mean.<l>`, `prior_scale.<l>` and `z.<l>`, each (B, h, w, Z), where scales are logarithms, and
        the head's input `features` (B, h, w, C).
        """
        return self.top_down(noise, self.bottom_up(x), masks=masks, label=label)

    def generate(
        self,
        noise: Arrays,
        temperatures: Sequence[float] | Array,
        latents: Arrays | None = None,
        masks: Masks = None,
        label: Array | None = None,
        guidance: Array | float | None = None,
    ) -> tuple[Array, dict[str, Array]]:
        """Decode latents from the prior, with one temperature per group, or given ones `z.<l>`.

        `noise` holds `prior.<l>`, except for given latents without masks. `guidance` is as for
        `HierarchicalVAE`. Returns the same as `__call__`, without the posterior's statistics.
        """
        return self.top_down(noise, None, temperatures, latents, masks, label, guidance)

    def activations(self, x: Array) -> list[Array]:
        """What each group's posterior reads of pictures (B, H, W, C)."""
        read: list[Array] = self.bottom_up(x)
        return read


class BottomUp(nnx.Module):
    """Encoder: pictures (B, H, W, C) -> the activation (B, h, w, C) that each top-down block reads."""

    def __init__(self, plan: MetroplexPlan, options: Model, checkpoint: bool) -> None:
        self.input_conv = convolution(plan.channels * plan.patch_size, plan.width, plan.input_kernel)
        self.blocks = nnx.List(
            [
                UpConvolutions(block)
                if isinstance(block, UpBlock)
                else UpAttention(block, plan.gelu, gated=plan.gated)
                for block in plan.up
            ]
        )
        self.plan, self.checkpoint = plan, checkpoint
        self.shift, self.scale = options.input_shift + 127.5, options.input_scale

    def __call__(self, x: Array) -> list[Array]:
        plan = self.plan
        x = (x * 127.5 + self.shift) * self.scale
        x = self.input_conv(to_tokens(x, plan.patch))
        if plan.encoding != "none":
            x = x + positions(plan, x)
        activations = {} if plan.transformer else {plan.finest: x}
        for index, (layer, block) in enumerate(zip(self.blocks, plan.up, strict=True)):
            x = call(layer, x, checkpoint=self.checkpoint)
            activations[block.out_resolution if isinstance(block, UpBlock) else index] = x
        return [activations[b.resolution if isinstance(b, DownBlock) else b.source] for b in plan.down]


class TopDown(nnx.Module):
    """Decoder: latent groups from the coarsest to the finest, then the head."""

    def __init__(self, plan: MetroplexPlan, options: Model, checkpoint: bool) -> None:
        shapes = {block.resolution: (1, *block.grid, block.channels) for block in plan.down}
        self.start = nnx.Dict({str(side): nnx.Param(jnp.zeros(shapes[side])) for side in plan.start})
        self.blocks = nnx.List(
            [
                DownConvolutions(block, options, plan.class_width)
                if isinstance(block, DownBlock)
                else DownAttention(block, options, plan)
                for block in plan.down
            ]
        )
        self.class_emb = Embedding(plan.num_classes + 1, plan.class_width) if plan.num_classes else None
        if plan.affine:
            self.gain = nnx.Param(jnp.ones((1, *(1,) * plan.rank, plan.top_width)))
            self.bias = nnx.Param(jnp.zeros((1, *(1,) * plan.rank, plan.top_width)))
        outputs = plan.head_channels * plan.patch_size
        self.output_conv = convolution(plan.top_width, outputs, (1,) * plan.rank)
        if plan.shared_scale == "full":
            self.log_scale = nnx.Param(jnp.zeros(1))
        self.plan, self.checkpoint = plan, checkpoint

    def __call__(
        self,
        noise: Arrays,
        activations: list[Array] | None,
        temperatures: Sequence[float] | Array | None = None,
        latents: Arrays | None = None,
        masks: Masks = None,
        label: Array | None = None,
        guidance: Array | float | None = None,
    ) -> tuple[Array, dict[str, Array]]:
        B = len(next(iter({**noise, **(latents or {})}.values())))
        condition = class_condition(self.class_emb, label, B)
        states: dict[int, Array] = {}
        aux: dict[str, Array] = {}
        for group, block in enumerate(self.blocks):
            inputs = (
                noise.get(f"prior.{group}"),
                noise.get(f"posterior.{group}"),
                None if temperatures is None else temperatures[group],
                None if latents is None else latents[f"z.{group}"],
                None if masks is None else masks[group].reshape(1, *(1,) * self.plan.rank, -1),
                guidance,
            )
            x = self.features_before(group, states, B)
            arguments = (x, None if activations is None else activations[group], condition, inputs)
            x, intermediates = call(block, *arguments, checkpoint=self.checkpoint)
            states[self.slot(group)] = x
            aux |= {f"{name}.{group}": value for name, value in intermediates.items()}
        features = self._features(states)
        return self._head(features), {**aux, "features": at_least_float32(features)}

    def slot(self, group: int) -> int:
        """Where the features behind a group's block are kept among `states`: by resolution."""
        resolution: int = self.plan.down[group].resolution
        return resolution

    def features_before(self, group: int, states: Mapping[int, Array], B: int) -> Array:
        """Features (B, *grid, C) that meet a group's block: its resolution's, with coarser ones added."""
        plan, block = self.plan, self.plan.down[group]
        side, channels, grid = block.resolution, block.channels, block.grid
        x = states.get(side)
        if x is None and side in plan.start:
            x = jnp.broadcast_to(self.start[str(side)][...], (B, *grid, channels))
            if plan.encoding == "start":
                x = x + positions(plan, x)
        elif x is None:
            x = jnp.zeros((B, *grid, channels), weights_dtype(self.output_conv))
        if not isinstance(block, DownBlock) or not block.mixin:
            return x
        return x + enlarge(with_channels(states[block.mixin], channels), block.enlargement)

    def read_output(self, states: Mapping[int, Array]) -> Array:
        """The output layer (B, *extent, outputs)."""
        return self._head(self._features(states))

    def _features(self, states: Mapping[int, Array]) -> Array:
        """The head's input."""
        features = states[self.plan.finest]
        return features * self.gain[...] + self.bias[...] if self.plan.affine else features

    def _head(self, features: Array) -> Array:
        """Output layer (B, *extent, outputs); every token holds all values of its patch."""
        plan = self.plan
        y = from_tokens(at_least_float32(self.output_conv(features)), plan.patch)
        if plan.shared_scale == "none":
            return y
        logits, rest = jnp.split(y, [plan.n_mixtures], -1)
        rest = rearrange(rest, "b ... (c k m) -> k b ... c m", c=plan.channels, m=plan.n_mixtures)
        scales = (
            rest[1, ..., :1] if plan.shared_scale == "mixtures" else broadcast(self.log_scale[...], rest[1])
        )
        rest = jnp.concatenate([rest[:1], jnp.broadcast_to(scales, rest.shape[1:])[None], rest[2:]])
        return jnp.concatenate([logits, rearrange(rest, "k b ... c m -> b ... (c k m)")], -1)


def positions(plan: MetroplexPlan, like: Array) -> Array:
    """Sinusoids (1, *grid, C) with the dtype of `like`."""
    return jnp.asarray(sinusoids(plan.width, plan.tokens), like.dtype)[None]
