"""Efficient-VDVAE (Hazami et al. 2022, section 3): latent groups between a bottom-up and a top-down path.

Arrays are NHWC.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax import Array

from dioscuri.families.hierarchical_vae.options import Model
from dioscuri.families.hierarchical_vae.plan import DownBlock, HierarchicalVAEPlan, UpBlock
from jax_impl.layers.cells import ResidualCell
from jax_impl.layers.convolution import Pool, Unpool, convolution
from jax_impl.layers.dense import Embedding, Linear
from jax_impl.layers.latents import Context, Gaussian, LatentGroup, class_condition, gaussian, with_class
from jax_impl.layers.precision import at_least_float32
from jax_impl.pretrained import Pretrained

Arrays = Mapping[str, Array]
Masks = Sequence[Array] | None


class HierarchicalVAE(Pretrained, nnx.Module):
    """The model, which computes in its parameters' dtype.

    `checkpoint` recomputes every block in the backward pass to save memory. `scan` compiles a run of equal
    blocks once, as a loop over their stacked parameters; the module and its parameters do not change.
    """

    def __init__(
        self,
        plan: HierarchicalVAEPlan,
        options: Model,
        *,
        checkpoint: bool = False,
        scan: bool = False,
    ) -> None:
        self.bottom_up = BottomUp(plan, checkpoint, scan)
        self.top_down = TopDown(plan, options, checkpoint, scan)

    def __call__(
        self, x: Array, noise: Arrays, masks: Masks = None, label: Array | None = None
    ) -> tuple[Array, dict[str, Array]]:
        """Encode and decode pictures (B, H, W, C).

        `noise` holds `posterior.<l>` (B, h, w, Z) and, with `masks`, `prior.<l>`: variates whose mask (one
        (Z,) per group) is 0 come from the prior. Returns the output layer (B, H, W, outputs) and a flat dict
        with `posterior_mean.<l>`, `posterior_scale.<l>`, `prior_mean.<l>`, `prior_scale.<l>` and `z.<l>`,
        each (B, h, w, Z). `label` (B,) holds the classes, if there are any; `num_classes` is none.
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

        `noise` holds `prior.<l>`, except for given latents without masks. With the factor `guidance` the rows
        are B with their classes, then the same B without; see `guided`. Returns the same as `__call__`,
        without the posterior's statistics.
        """
        return self.top_down(noise, None, temperatures, latents, masks, label, guidance)

    def activations(self, x: Array) -> list[Array]:
        """What each group's posterior reads of pictures (B, H, W, C)."""
        skips = self.bottom_up(x)
        return [skips[level] for level in self.top_down.skip_levels]


class BottomUp(nnx.Module):
    """Encoder: pictures (B, H, W, C) -> skip connections (B, h, w, C), one per level."""

    def __init__(self, plan: HierarchicalVAEPlan, checkpoint: bool, scan: bool) -> None:
        self.input_conv = convolution(plan.channels, plan.input_channels, plan.input_kernel)
        self.blocks = nnx.List([BottomUpBlock(block) for block in plan.up])
        self.runs, self.checkpoint = _runs(plan.up, scan), checkpoint

    def __call__(self, x: Array) -> list[Array]:
        y = self.input_conv(x)
        skips = []
        for run in self.runs:
            blocks = [self.blocks[index] for index in run]
            y, outputs = _apply(blocks, y, (), [()] * len(run), self.checkpoint)
            skips += [skip for skip in outputs if skip is not None]
        return skips


class BottomUpBlock(nnx.Module):
    """Cells; the last block of a level also has a skip connection and pooling."""

    def __init__(self, block: UpBlock) -> None:
        skip, stride = block.skip_channels, block.pool_stride
        self.cells = nnx.List([ResidualCell(cell) for cell in block.cells])
        self.skip_projection = convolution(block.channels, skip, (1, 1)) if skip else None
        self.pool = Pool(block.channels, block.pool_channels, stride) if stride > 1 else None

    def __call__(self, y: Array) -> tuple[Array, Array | None]:
        for cell in self.cells:
            y = cell(y)
        skip = None if self.skip_projection is None else self.skip_projection(y)
        return (y if self.pool is None else self.pool(y)), skip


class TopDown(nnx.Module):
    """Decoder: latent groups from the coarsest to the finest, then the output layer."""

    def __init__(self, plan: HierarchicalVAEPlan, options: Model, checkpoint: bool, scan: bool) -> None:
        side = plan.top_resolution
        self.trainable_h = nnx.Param(jnp.zeros((1, side, side, plan.top_channels)))
        self.class_emb = Embedding(plan.num_classes + 1, plan.class_width) if plan.num_classes else None
        self.blocks = nnx.List([TopDownBlock(block, options, plan.class_width) for block in plan.down])
        self.output_conv = convolution(plan.down[-1].channels, plan.output_channels, plan.output_kernel)
        self.skip_levels = tuple(block.skip_level for block in plan.down)
        self.runs, self.checkpoint = _runs(plan.down, scan), checkpoint

    def __call__(
        self,
        noise: Arrays,
        skips: list[Array] | None,
        temperatures: Sequence[float] | Array | None = None,
        latents: Arrays | None = None,
        masks: Masks = None,
        label: Array | None = None,
        guidance: Array | float | None = None,
    ) -> tuple[Array, dict[str, Array]]:
        B = len(next(iter({**noise, **(latents or {})}.values())))
        y = self.features_before(0, {}, B)
        condition = class_condition(self.class_emb, label, B)
        aux: dict[str, Array] = {}
        for run in self.runs:
            skip = None if skips is None else skips[self.skip_levels[run[0]]]
            given = [
                (
                    noise.get(f"prior.{group}"),
                    noise.get(f"posterior.{group}"),
                    None if temperatures is None else temperatures[group],
                    None if latents is None else latents[f"z.{group}"],
                    None if masks is None else rearrange(masks[group], "z -> 1 1 1 z"),
                    guidance,
                )
                for group in run
            ]
            blocks = [self.blocks[group] for group in run]
            shared = (skip, condition)
            y, intermediates = _apply(blocks, y, shared, [(one,) for one in given], self.checkpoint)
            for group, values in zip(run, intermediates, strict=True):
                aux |= {f"{name}.{group}": value for name, value in values.items()}
        return self.read_output({self.slot(0): y}), aux

    def slot(self, group: int) -> int:  # noqa: ARG002 - in other models it matters
        """Where the features behind a group's block are kept among `states`: here there is one place."""
        return 0

    def features_before(self, group: int, states: Mapping[int, Array], B: int) -> Array:
        """Features (B, h, w, C) that meet a group's block."""
        h = self.trainable_h[...]
        return states[0] if group else jnp.broadcast_to(h, (B, *h.shape[1:]))

    def read_output(self, states: Mapping[int, Array]) -> Array:
        """The output layer (B, H, W, outputs)."""
        return at_least_float32(self.output_conv(states[0]))


class TopDownBlock(LatentGroup):
    """One latent group: prior, posterior if there is a skip connection, and projection of the latents."""

    options: Model

    def __init__(self, block: DownBlock, options: Model, class_width: int) -> None:
        width, stride = block.channels, block.unpool_stride
        self.unpool = Unpool(block.in_channels, width, stride, block.resolution) if stride > 1 else None
        self.class_projection = Linear(class_width, width, use_bias=False) if class_width else None
        self.prior_net = ResidualCell(block.prior_net)
        self.posterior_net = ResidualCell(block.posterior_net)
        self.prior_layer = convolution(width, 2 * block.variates, (1, 1))
        self.posterior_layer = convolution(width, 2 * block.variates, (1, 1))
        self.z_projection = convolution(block.variates, width, (1, 1))
        self.cells = nnx.List([ResidualCell(cell) for cell in block.cells])
        self.options = options

    def read_prior(self, x: Array, condition: Array | None) -> tuple[Context, Gaussian]:
        x = x if self.unpool is None else self.unpool(x)
        x = with_class(x, self.class_projection, condition)
        residual, features = jnp.split(self.prior_net(x), 2, -1)
        return Context(x, residual), gaussian(self.prior_layer(features), self.options)

    def read_posterior(self, context: Context, activation: Array, prior: Gaussian) -> Gaussian:
        statistics = self.posterior_layer(self.posterior_net(jnp.concatenate([context.x, activation], -1)))
        return gaussian(statistics, self.options, prior if self.options.use_residual_distribution else None)

    def add_latents(self, context: Context, z: Array) -> Array:
        y = context.x + context.features + self.z_projection(z.astype(context.x.dtype))
        for cell in self.cells:
            y = cell(y)
        return y


def _runs(blocks: Sequence[UpBlock | DownBlock], scan: bool) -> tuple[tuple[int, ...], ...]:
    """Indices of the blocks by run: with `scan`, consecutive blocks with equal
    plans, else each block alone."""
    kinds = [replace(block, index=0) if scan else block for block in blocks]
    return tuple(tuple(run) for _, run in groupby(range(len(blocks)), kinds.__getitem__))


def _apply(
    blocks: Sequence[nnx.Module], y: Array, shared: tuple, arguments: Sequence[tuple], checkpoint: bool
) -> tuple[Array, list[Any]]:
    """Apply a run of blocks to the features; return these and the blocks' other results.

    Several blocks are one `jax.lax.scan`. Each block gets the `shared` arguments, then its `arguments`.
    """

    def step(y: Array, block_and_arguments: tuple[Any, tuple]) -> tuple[Array, Any]:
        block, arguments = block_and_arguments
        return block(y, *shared, *arguments)

    n = len(blocks)
    if checkpoint:
        step = jax.checkpoint(step, prevent_cse=n == 1)
    if n == 1:
        y, output = step(y, (blocks[0], arguments[0]))
        return y, [output]
    pairs = zip(blocks, arguments, strict=True)
    y, stacked = jax.lax.scan(step, y, jax.tree.map(lambda *leaves: jnp.stack(leaves), *pairs))
    return y, [jax.tree.map(lambda leaves, i=i: leaves[i], stacked) for i in range(n)]
