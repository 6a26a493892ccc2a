"""Hourglass transformer (Nawrot et al. 2022, section 2) on a grid of tokens, as in sundae-vqgan.

Sequences are (B, L, C), row by row over a square grid. Layers act on the grid, then on a coarser one, then on
the grid again.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange, reduce, repeat
from flax import nnx
from jax import Array

from dioscuri.families.sundae.plan import EPS, FEED_FORWARD, DenoiserPlan, Level, Stack, angles
from jax_impl.layers.attention import attend, split_heads
from jax_impl.layers.dense import Linear
from jax_impl.layers.norms import LayerNorm
from jax_impl.layers.rotary import rotate
from jax_impl.layers.stack import apply_layers

Aux = dict[str, Array]


class HourglassLevel(nnx.Module):
    """Layers before, at and after a coarser grid: (B, L, C) -> (B, L, C)."""

    def __init__(
        self, plan: DenoiserPlan, level: Level, *, checkpoint: bool, outermost: bool, scan: bool
    ) -> None:
        options, d, s = plan.options, plan.options.dim, level.factor**2
        linear, resampling = options.updown_sample_type == "linear", options.attn_resampling
        make: dict[str, Any] = {"plan": plan, "checkpoint": checkpoint, "scan": scan}
        self.pre_transformer = HourglassStack(stack=level.before, **make)
        self.downsample = nnx.Dict({"proj": Linear(d * s, d)} if linear else {})
        self.attn_resampling_pre_valley = HourglassStack(stack=None, **make) if resampling else None
        self.valley_transformer = build_body(**make, body=level.inside, outermost=False)
        self.attn_resampling_post_valley = HourglassStack(stack=None, **make) if resampling else None
        self.upsample = nnx.Dict({"proj": Linear(d, d * s)} if linear else {})
        self.post_transformer = HourglassStack(stack=level.after, **make)
        self.norm_out = LayerNorm(d, EPS) if outermost else None
        self.level, self.legacy = level, options.legacy_positions

    def __call__(self, x: Array) -> tuple[Array, Aux]:
        """Returns x and intermediates by module name."""
        x = self.pre_transformer(x)[0]
        z = self._coarser(x)
        aux = {"pre_transformer": x, "downsample": z}
        if self.attn_resampling_pre_valley is not None:
            single = rearrange(z, "b n c -> (b n) 1 c")
            z = self.attn_resampling_pre_valley.resample(single, self._groups(x))
            aux["attn_resampling_pre_valley"] = z
            z = rearrange(z, "(b n) 1 c -> b n c", b=len(x))
        v, intermediates = self.valley_transformer(z)
        aux |= {f"valley_transformer.{name}": value for name, value in intermediates.items()}
        aux["valley_transformer"] = v
        fine = self._finer(v)
        aux["upsample"] = fine
        x = fine + x
        if self.attn_resampling_post_valley is not None:
            single = rearrange(v, "b n c -> (b n) 1 c")
            groups = self.attn_resampling_post_valley.resample(self._groups(x), single)
            aux["attn_resampling_post_valley"] = groups
            x = self._ungrouped(groups)
        x = self.post_transformer(x)[0]
        aux["post_transformer"] = x
        x = x if self.norm_out is None else self.norm_out(x)
        return x, {**aux, "norm_out": x}

    def _coarser(self, x: Array) -> Array:
        """(B, L, C) -> (B, L / s, C)."""
        side, r = self.level.side // self.level.factor, self.level.factor
        if not self.downsample:
            return reduce(x, "b (h s w t) c -> b (h w) c", "mean", h=side, w=side, s=r, t=r)
        patches = rearrange(x, "b (h s w t) c -> b (h w) (c s t)", h=side, w=side, s=r, t=r)
        return self.downsample["proj"](patches)

    def _finer(self, x: Array) -> Array:
        """(B, L / s, C) -> (B, L, C)."""
        side, r = self.level.side // self.level.factor, self.level.factor
        if not self.upsample:
            return repeat(x, "b (h w) c -> b (h s w t) c", h=side, w=side, s=r, t=r)
        patches = self.upsample["proj"](x)
        return rearrange(patches, "b (h w) (c s t) -> b (h s w t) c", h=side, w=side, s=r, t=r)

    def _groups(self, x: Array) -> Array:
        """(B, L, C) -> (B L / s, s, C): the fine tokens of each coarse one."""
        side, r = self.level.side // self.level.factor, self.level.factor
        if self.legacy:
            return rearrange(x, "b (n s) c -> (b n) s c", s=r**2)
        return rearrange(x, "b (h s w t) c -> (b h w) (s t) c", h=side, w=side, s=r, t=r)

    def _ungrouped(self, x: Array) -> Array:
        """(B L / s, s, C) -> (B, L, C)."""
        side, r = self.level.side // self.level.factor, self.level.factor
        if self.legacy:
            return rearrange(x, "(b n) s c -> b (n s) c", n=side**2)
        return rearrange(x, "(b h w) (s t) c -> b (h s w t) c", h=side, w=side, s=r, t=r)


class HourglassStack(nnx.Module):
    """Transformer layers on a grid: (B, L, C) -> (B, L, C). Without `stack`, one layer between two grids."""

    def __init__(
        self,
        plan: DenoiserPlan,
        stack: Stack | None,
        *,
        checkpoint: bool,
        scan: bool,
        outermost: bool = False,
    ) -> None:
        depth = 1 if stack is None else stack.depth
        self.layers = nnx.List([HourglassLayer(plan) for _ in range(depth)])
        self.norm = LayerNorm(plan.options.dim, EPS) if outermost else None
        rotates = stack is not None and stack.max_frequency > 0
        self.stack, self.rotates = stack, rotates
        self.options, self.checkpoint, self.scan = plan.options, checkpoint, scan

    def __call__(self, x: Array) -> tuple[Array, Aux]:
        """Queries and keys are rotated by the positions."""
        cos = sin = None
        if self.stack is not None and self.rotates:
            table, dtype = angles(self.stack, self.options), jnp.promote_types(x.dtype, jnp.float32)
            cos, sin = (jnp.asarray(f(table), dtype) for f in (np.cos, np.sin))
        per_layer = [()] * len(self.layers)
        x, _ = apply_layers(
            self.layers, x, (None, cos, sin), per_layer, checkpoint=self.checkpoint, scan=self.scan
        )
        return (x if self.norm is None else self.norm(x)), {}

    def resample(self, x: Array, context: Array) -> Array:
        """Apply the single layer, with attention to a context (B, S, C), which is not normed."""
        return self.layers[0](x, context, None, None)[0]


class HourglassLayer(nnx.Dict):
    """x + attention(norm), x + feed-forward(norm), named 0 and 1."""

    def __init__(self, plan: DenoiserPlan) -> None:
        super().__init__({"0": NormedAttention(plan), "1": NormedFeedForward(plan.options.dim)})

    def __call__(
        self, x: Array, context: Array | None, cos: Array | None, sin: Array | None
    ) -> tuple[Array, None]:
        """x (B, L, C); context (B, S, C) or None; cosines and sines of `rotate` or None."""
        x = x + self["0"](x, context, cos, sin)
        return x + self["1"](x), None


class NormedAttention(nnx.Module):
    """Attention of the normed x to itself or to a context: (B, L, C) -> (B, L or 1, C)."""

    def __init__(self, plan: DenoiserPlan) -> None:
        d, inner = plan.options.dim, plan.attention_width
        self.norm = LayerNorm(d, EPS)
        self.fn = nnx.Dict(
            {
                "to_q": Linear(d, inner, use_bias=False),
                "to_kv": Linear(d, 2 * inner, use_bias=False),
                "to_out": Linear(inner, d),
            }
        )
        self.heads = plan.options.nb_heads

    def __call__(self, x: Array, context: Array | None, cos: Array | None, sin: Array | None) -> Array:
        """With a single key, the result is its value, whatever the queries."""
        x = self.norm(x)
        key, value = jnp.split(self.fn["to_kv"](x if context is None else context), 2, -1)
        if key.shape[1] == 1:
            return self.fn["to_out"](value)
        query, key, value = (split_heads(y, self.heads) for y in (self.fn["to_q"](x), key, value))
        if cos is not None and sin is not None:
            query, key = rotate(query, cos, sin), rotate(key, cos, sin)
        return self.fn["to_out"](attend(query, key, value))


class NormedFeedForward(nnx.Module):
    """Norm, dense layer, GELU, dense layer: (..., C) -> (..., C)."""

    def __init__(self, width: int) -> None:
        self.norm = LayerNorm(width, EPS)
        self.fn = nnx.Dict(
            {
                "0": Linear(width, FEED_FORWARD * width),
                "3": Linear(FEED_FORWARD * width, width),
            }
        )

    def __call__(self, x: Array) -> Array:
        return self.fn["3"](jax.nn.gelu(self.fn["0"](self.norm(x)), approximate=False))


def build_body(
    plan: DenoiserPlan, body: Stack | Level, *, checkpoint: bool, outermost: bool, scan: bool
) -> nnx.Module:
    """A level, or layers on one grid; the outermost ends with a norm."""
    if isinstance(body, Stack):
        return HourglassStack(plan, body, checkpoint=checkpoint, outermost=outermost, scan=scan)
    return HourglassLevel(plan, body, checkpoint=checkpoint, outermost=outermost, scan=scan)
