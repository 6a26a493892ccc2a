"""Hourglass transformer (Nawrot et al. 2022, section 2) on a grid of tokens, as in sundae-vqgan.

Sequences are (B, L, C), row by row over a square grid. Layers act on the grid, then on a coarser one, then on
the grid again.
"""

from typing import Any

import torch
from einops import rearrange, reduce, repeat
from torch import Tensor, nn

from dioscuri.families.sundae.plan import EPS, FEED_FORWARD, DenoiserPlan, Level, Stack, angles
from torch_impl.layers.attention import attend, split_heads
from torch_impl.layers.rotary import rotate
from torch_impl.layers.stack import apply_layers

Aux = dict[str, Tensor]


class HourglassLevel(nn.Module):
    """Layers before, at and after a coarser grid: (B, L, C) -> (B, L, C)."""

    def __init__(self, plan: DenoiserPlan, level: Level, *, checkpoint: bool, outermost: bool) -> None:
        super().__init__()
        options, d, s = plan.options, plan.options.dim, level.factor**2
        linear, resampling = options.updown_sample_type == "linear", options.attn_resampling
        make: dict[str, Any] = {"plan": plan, "checkpoint": checkpoint}
        self.pre_transformer = HourglassStack(stack=level.before, **make)
        self.downsample = nn.ModuleDict({"proj": nn.Linear(d * s, d)} if linear else {})
        self.attn_resampling_pre_valley = HourglassStack(stack=None, **make) if resampling else None
        self.valley_transformer = build_body(**make, body=level.inside, outermost=False)
        self.attn_resampling_post_valley = HourglassStack(stack=None, **make) if resampling else None
        self.upsample = nn.ModuleDict({"proj": nn.Linear(d, d * s)} if linear else {})
        self.post_transformer = HourglassStack(stack=level.after, **make)
        self.norm_out = nn.LayerNorm(d, EPS) if outermost else None
        self.level, self.legacy = level, options.legacy_positions

    def forward(self, x: Tensor) -> tuple[Tensor, Aux]:
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

    def _coarser(self, x: Tensor) -> Tensor:
        """(B, L, C) -> (B, L / s, C)."""
        side, r = self.level.side // self.level.factor, self.level.factor
        if not self.downsample:
            return reduce(x, "b (h s w t) c -> b (h w) c", "mean", h=side, w=side, s=r, t=r)
        patches = rearrange(x, "b (h s w t) c -> b (h w) (c s t)", h=side, w=side, s=r, t=r)
        return self.downsample["proj"](patches)

    def _finer(self, x: Tensor) -> Tensor:
        """(B, L / s, C) -> (B, L, C)."""
        side, r = self.level.side // self.level.factor, self.level.factor
        if not self.upsample:
            return repeat(x, "b (h w) c -> b (h s w t) c", h=side, w=side, s=r, t=r)
        patches = self.upsample["proj"](x)
        return rearrange(patches, "b (h w) (c s t) -> b (h s w t) c", h=side, w=side, s=r, t=r)

    def _groups(self, x: Tensor) -> Tensor:
        """(B, L, C) -> (B L / s, s, C): the fine tokens of each coarse one."""
        side, r = self.level.side // self.level.factor, self.level.factor
        if self.legacy:
            return rearrange(x, "b (n s) c -> (b n) s c", s=r**2)
        return rearrange(x, "b (h s w t) c -> (b h w) (s t) c", h=side, w=side, s=r, t=r)

    def _ungrouped(self, x: Tensor) -> Tensor:
        """(B L / s, s, C) -> (B, L, C)."""
        side, r = self.level.side // self.level.factor, self.level.factor
        if self.legacy:
            return rearrange(x, "(b n) s c -> b (n s) c", n=side**2)
        return rearrange(x, "(b h w) (s t) c -> b (h s w t) c", h=side, w=side, s=r, t=r)


class HourglassStack(nn.Module):
    """Transformer layers on a grid: (B, L, C) -> (B, L, C). Without `stack`, one layer between two grids."""

    def __init__(
        self,
        plan: DenoiserPlan,
        stack: Stack | None,
        *,
        checkpoint: bool,
        outermost: bool = False,
    ) -> None:
        super().__init__()
        depth = 1 if stack is None else stack.depth
        self.layers = nn.ModuleList(HourglassLayer(plan) for _ in range(depth))
        self.norm = nn.LayerNorm(plan.options.dim, EPS) if outermost else None
        rotates = stack is not None and stack.max_frequency > 0
        self.angles = torch.from_numpy(angles(stack, plan.options)) if stack is not None and rotates else None
        self.checkpoint = checkpoint

    def forward(self, x: Tensor) -> tuple[Tensor, Aux]:
        """Queries and keys are rotated by the positions."""
        cos = sin = None
        if self.angles is not None:
            dtype = torch.promote_types(x.dtype, torch.float32)
            cos, sin = (f(self.angles).to(x.device, dtype) for f in (torch.cos, torch.sin))
        per_layer = [()] * len(self.layers)
        x, _ = apply_layers(self.layers, x, (None, cos, sin), per_layer, checkpoint=self.checkpoint)
        return (x if self.norm is None else self.norm(x)), {}

    def resample(self, x: Tensor, context: Tensor) -> Tensor:
        """Apply the single layer, with attention to a context (B, S, C), which is not normed."""
        return self.layers[0](x, context, None, None)[0]


class HourglassLayer(nn.ModuleDict):
    """x + attention(norm), x + feed-forward(norm), named 0 and 1."""

    def __init__(self, plan: DenoiserPlan) -> None:
        super().__init__({"0": NormedAttention(plan), "1": NormedFeedForward(plan.options.dim)})

    def forward(
        self, x: Tensor, context: Tensor | None, cos: Tensor | None, sin: Tensor | None
    ) -> tuple[Tensor, None]:
        """x (B, L, C); context (B, S, C) or None; cosines and sines of `rotate` or None."""
        x = x + self["0"](x, context, cos, sin)
        return x + self["1"](x), None


class NormedAttention(nn.Module):
    """Attention of the normed x to itself or to a context: (B, L, C) -> (B, L or 1, C)."""

    def __init__(self, plan: DenoiserPlan) -> None:
        super().__init__()
        d, inner = plan.options.dim, plan.attention_width
        self.norm = nn.LayerNorm(d, EPS)
        self.fn = nn.ModuleDict(
            {
                "to_q": nn.Linear(d, inner, bias=False),
                "to_kv": nn.Linear(d, 2 * inner, bias=False),
                "to_out": nn.Linear(inner, d),
            }
        )
        self.heads = plan.options.nb_heads

    def forward(self, x: Tensor, context: Tensor | None, cos: Tensor | None, sin: Tensor | None) -> Tensor:
        """With a single key, the result is its value, whatever the queries."""
        x = self.norm(x)
        key, value = self.fn["to_kv"](x if context is None else context).chunk(2, -1)
        if key.shape[1] == 1:
            return self.fn["to_out"](value)
        query, key, value = (split_heads(y, self.heads) for y in (self.fn["to_q"](x), key, value))
        if cos is not None and sin is not None:
            query, key = rotate(query, cos, sin), rotate(key, cos, sin)
        return self.fn["to_out"](attend(query, key, value))


class NormedFeedForward(nn.Module):
    """Norm, dense layer, GELU, dense layer: (..., C) -> (..., C)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, EPS)
        self.fn = nn.ModuleDict(
            {
                "0": nn.Linear(width, FEED_FORWARD * width),
                "3": nn.Linear(FEED_FORWARD * width, width),
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.fn["3"](nn.functional.gelu(self.fn["0"](self.norm(x))))


def build_body(plan: DenoiserPlan, body: Stack | Level, *, checkpoint: bool, outermost: bool) -> nn.Module:
    """A level, or layers on one grid; the outermost ends with a norm."""
    if isinstance(body, Stack):
        return HourglassStack(plan, body, checkpoint=checkpoint, outermost=outermost)
    return HourglassLevel(plan, body, checkpoint=checkpoint, outermost=outermost)
