"""Metroplex: VD-VAE (Child 2021) on patches of pixels, convolutional or with variational attention.

With patches of one pixel, the convolutional model is VD-VAE. Inputs and outputs are NHWC; inside, tensors are
NCHW with channels last in memory. Sounds (B, L, C) and clips (B, T, H, W, C) are treated alike: the plan says
how many axes there are.
"""

from collections.abc import Mapping, Sequence

import torch
from einops import rearrange
from torch import Tensor, nn

from dioscuri.families.metroplex.blocks import DownBlock, UpBlock
from dioscuri.families.metroplex.options import Model
from dioscuri.families.metroplex.plan import MetroplexPlan
from dioscuri.families.metroplex.sinusoids import sinusoids
from torch_impl.layers.convolution import convolution
from torch_impl.layers.grids import enlarge, from_tokens, to_tokens
from torch_impl.layers.latents import class_condition
from torch_impl.layers.precision import at_least_float32, weights_dtype
from torch_impl.layers.stack import call
from torch_impl.models.metroplex_blocks import (
    DownAttention,
    DownConvolutions,
    UpAttention,
    UpConvolutions,
    with_channels,
)
from torch_impl.pretrained import Pretrained

Tensors = Mapping[str, Tensor]
Masks = Sequence[Tensor] | None


class Metroplex(Pretrained, nn.Module):
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
        super().__init__()
        self.bottom_up = BottomUp(plan, options, checkpoint)
        self.top_down = TopDown(plan, options, checkpoint)

    def forward(
        self, x: Tensor, noise: Tensors, masks: Masks = None, label: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Encode and decode pictures (B, H, W, C), sounds or clips.

        `noise`, `masks` and `label` are as for `HierarchicalVAE`. Returns the output layer
        (B, H, W, outputs) and a flat dict with `posterior_mean.<l>`, `posterior_scale.<l>`,
        `prior_mean.<l>`, `prior_scale.<l>` and `z.<l>`, each (B, h, w, Z), where scales are logarithms, and
        the head's input `features` (B, h, w, C).
        """
        return self.top_down(noise, self.bottom_up(x), masks=masks, label=label)

    def generate(
        self,
        noise: Tensors,
        temperatures: Sequence[float] | Tensor,
        latents: Tensors | None = None,
        masks: Masks = None,
        label: Tensor | None = None,
        guidance: Tensor | float | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Decode latents from the prior, with one temperature per group, or given ones `z.<l>`.

        `noise` holds `prior.<l>`, except for given latents without masks. `guidance` is as for
        `HierarchicalVAE`. Returns the same as `forward`, without the posterior's statistics.
        """
        return self.top_down(noise, None, temperatures, latents, masks, label, guidance)

    def activations(self, x: Tensor) -> list[Tensor]:
        """What each group's posterior reads of pictures (B, H, W, C)."""
        read: list[Tensor] = self.bottom_up(x)
        return read


class BottomUp(nn.Module):
    """Encoder: pictures (B, H, W, C) -> the activation (B, C, h, w) that each top-down block reads."""

    def __init__(self, plan: MetroplexPlan, options: Model, checkpoint: bool) -> None:
        super().__init__()
        self.input_conv = convolution(plan.channels * plan.patch_size, plan.width, plan.input_kernel)
        self.blocks = nn.ModuleList(
            [
                UpConvolutions(block)
                if isinstance(block, UpBlock)
                else UpAttention(block, plan.gelu, gated=plan.gated)
                for block in plan.up
            ]
        )
        self.plan, self.checkpoint = plan, checkpoint
        self.shift, self.scale = options.input_shift + 127.5, options.input_scale

    def forward(self, x: Tensor) -> list[Tensor]:
        plan = self.plan
        x = (x * 127.5 + self.shift) * self.scale
        x = self.input_conv(to_tokens(x, plan.patch).to(weights_dtype(self.input_conv)))
        if plan.encoding != "none":
            x = x + positions(plan, x)
        activations = {} if plan.transformer else {plan.finest: x}
        for index, (layer, block) in enumerate(zip(self.blocks, plan.up, strict=True)):
            x = call(layer, x, checkpoint=self.checkpoint)
            activations[block.out_resolution if isinstance(block, UpBlock) else index] = x
        return [activations[b.resolution if isinstance(b, DownBlock) else b.source] for b in plan.down]


class TopDown(nn.Module):
    """Decoder: latent groups from the coarsest to the finest, then the head."""

    def __init__(self, plan: MetroplexPlan, options: Model, checkpoint: bool) -> None:
        super().__init__()
        shapes = {block.resolution: (1, block.channels, *block.grid) for block in plan.down}
        self.start = nn.ParameterDict(
            {str(side): nn.Parameter(torch.zeros(shapes[side])) for side in plan.start}
        )
        self.blocks = nn.ModuleList(
            [
                DownConvolutions(block, options, plan.class_width)
                if isinstance(block, DownBlock)
                else DownAttention(block, options, plan)
                for block in plan.down
            ]
        )
        self.class_emb = nn.Embedding(plan.num_classes + 1, plan.class_width) if plan.num_classes else None
        if plan.affine:
            self.gain = nn.Parameter(torch.ones(1, plan.top_width, *(1,) * plan.rank))
            self.bias = nn.Parameter(torch.zeros(1, plan.top_width, *(1,) * plan.rank))
        outputs = plan.head_channels * plan.patch_size
        self.output_conv = convolution(plan.top_width, outputs, (1,) * plan.rank)
        if plan.shared_scale == "full":
            self.log_scale = nn.Parameter(torch.zeros(1))
        self.plan, self.checkpoint = plan, checkpoint

    def forward(
        self,
        noise: Tensors,
        activations: list[Tensor] | None,
        temperatures: Sequence[float] | Tensor | None = None,
        latents: Tensors | None = None,
        masks: Masks = None,
        label: Tensor | None = None,
        guidance: Tensor | float | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        B = len(next(iter({**noise, **(latents or {})}.values())))
        condition = class_condition(self.class_emb, label, B)
        states: dict[int, Tensor] = {}
        aux: dict[str, Tensor] = {}
        for group, block in enumerate(self.blocks):
            inputs = (
                _nchw(noise.get(f"prior.{group}")),
                _nchw(noise.get(f"posterior.{group}")),
                None if temperatures is None else temperatures[group],
                None if latents is None else _nchw(latents[f"z.{group}"]),
                None if masks is None else masks[group].reshape(1, -1, *(1,) * self.plan.rank),
                guidance,
            )
            x = self.features_before(group, states, B)
            arguments = (x, None if activations is None else activations[group], condition, inputs)
            x, intermediates = call(block, *arguments, checkpoint=self.checkpoint)
            states[self.slot(group)] = x
            aux |= {f"{name}.{group}": value.movedim(1, -1) for name, value in intermediates.items()}
        features = self._features(states)
        return self._head(features), {**aux, "features": at_least_float32(features).movedim(1, -1)}

    def slot(self, group: int) -> int:
        """Where the features behind a group's block are kept among `states`: by resolution."""
        resolution: int = self.plan.down[group].resolution
        return resolution

    def features_before(self, group: int, states: Mapping[int, Tensor], B: int) -> Tensor:
        """Features (B, C, *grid) that meet a group's block: its resolution's, with coarser ones added."""
        plan, block = self.plan, self.plan.down[group]
        side, channels, grid = block.resolution, block.channels, block.grid
        x = states.get(side)
        if x is None and side in plan.start:
            x = self.start[str(side)].expand(B, channels, *grid)
            if plan.encoding == "start":
                x = x + positions(plan, x)
        elif x is None:
            weight = next(self.output_conv.parameters())
            x = torch.zeros(B, channels, *grid, dtype=weight.dtype, device=weight.device)
        if not isinstance(block, DownBlock) or not block.mixin:
            return x
        return x + enlarge(with_channels(states[block.mixin], channels), block.enlargement)

    def read_output(self, states: Mapping[int, Tensor]) -> Tensor:
        """The output layer (B, *extent, outputs)."""
        return self._head(self._features(states))

    def _features(self, states: Mapping[int, Tensor]) -> Tensor:
        """The head's input."""
        features = states[self.plan.finest]
        return features * self.gain + self.bias if self.plan.affine else features

    def _head(self, features: Tensor) -> Tensor:
        """Output layer (B, *extent, outputs); every token holds all values of its patch."""
        plan = self.plan
        y = from_tokens(at_least_float32(self.output_conv(features)), plan.patch)
        if plan.shared_scale == "none":
            return y
        logits, rest = y.split([plan.n_mixtures, plan.head_channels - plan.n_mixtures], -1)
        rest = rearrange(rest, "b ... (c k m) -> k b ... c m", c=plan.channels, m=plan.n_mixtures)
        scales = rest[1, ..., :1] if plan.shared_scale == "mixtures" else self.log_scale.to(rest.dtype)
        rest = torch.cat([rest[:1], scales.expand(rest.shape[1:])[None], rest[2:]])
        return torch.cat([logits, rearrange(rest, "k b ... c m -> b ... (c k m)")], -1)


def positions(plan: MetroplexPlan, like: Tensor) -> Tensor:
    """Sinusoids (1, C, *grid) with the dtype and device of `like`."""
    table = torch.as_tensor(sinusoids(plan.width, plan.tokens), dtype=like.dtype, device=like.device)
    return table.movedim(-1, 0)[None]


def _nchw(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.movedim(-1, 1)
