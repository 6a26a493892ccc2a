"""Efficient-VDVAE (Hazami et al. 2022, section 3): latent groups between a bottom-up and a top-down path.

Inputs and outputs are NHWC; inside, tensors are NCHW with channels last in memory.
"""

from collections.abc import Mapping, Sequence

import torch
from einops import rearrange
from torch import Tensor, nn

from dioscuri.families.hierarchical_vae.options import Model
from dioscuri.families.hierarchical_vae.plan import DownBlock, HierarchicalVAEPlan, UpBlock
from torch_impl.layers.cells import ResidualCell
from torch_impl.layers.convolution import Pool, Unpool, convolution
from torch_impl.layers.latents import Context, Gaussian, LatentGroup, class_condition, gaussian, with_class
from torch_impl.layers.precision import at_least_float32, weights_dtype
from torch_impl.layers.stack import call
from torch_impl.pretrained import Pretrained

Tensors = Mapping[str, Tensor]
Masks = Sequence[Tensor] | None


class HierarchicalVAE(Pretrained, nn.Module):
    """The model, which computes in its parameters' dtype.

    `checkpoint` recomputes every block in the backward pass to save memory.
    """

    def __init__(
        self,
        plan: HierarchicalVAEPlan,
        options: Model,
        *,
        checkpoint: bool = False,
    ) -> None:
        super().__init__()
        self.bottom_up = BottomUp(plan, checkpoint)
        self.top_down = TopDown(plan, options, checkpoint)

    def forward(
        self, x: Tensor, noise: Tensors, masks: Masks = None, label: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Encode and decode pictures (B, H, W, C).

        `noise` holds `posterior.<l>` (B, h, w, Z) and, with `masks`, `prior.<l>`: variates whose mask (one
        (Z,) per group) is 0 come from the prior. Returns the output layer (B, H, W, outputs) and a flat dict
        with `posterior_mean.<l>`, `posterior_scale.<l>`, `prior_mean.<l>`, `prior_scale.<l>` and `z.<l>`,
        each (B, h, w, Z). `label` (B,) holds the classes, if there are any; `num_classes` is none.
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

        `noise` holds `prior.<l>`, except for given latents without masks. With the factor `guidance` the rows
        are B with their classes, then the same B without; see `guided`. Returns the same as `forward`,
        without the posterior's statistics.
        """
        return self.top_down(noise, None, temperatures, latents, masks, label, guidance)

    def activations(self, x: Tensor) -> list[Tensor]:
        """What each group's posterior reads of pictures (B, H, W, C)."""
        skips = self.bottom_up(x)
        return [skips[level] for level in self.top_down.skip_levels]


class BottomUp(nn.Module):
    """Encoder: pictures (B, H, W, C) -> skip connections (B, C, h, w), one per level."""

    def __init__(self, plan: HierarchicalVAEPlan, checkpoint: bool) -> None:
        super().__init__()
        self.input_conv = convolution(plan.channels, plan.input_channels, plan.input_kernel)
        self.blocks = nn.ModuleList(BottomUpBlock(block) for block in plan.up)
        self.checkpoint = checkpoint

    def forward(self, x: Tensor) -> list[Tensor]:
        y = self.input_conv(x.to(weights_dtype(self.input_conv)).permute(0, 3, 1, 2))
        skips = []
        for block in self.blocks:
            y, skip = call(block, y, checkpoint=self.checkpoint)
            if skip is not None:
                skips.append(skip)
        return skips


class BottomUpBlock(nn.Module):
    """Cells; the last block of a level also has a skip connection and pooling."""

    def __init__(self, block: UpBlock) -> None:
        super().__init__()
        skip, stride = block.skip_channels, block.pool_stride
        self.cells = nn.ModuleList(ResidualCell(cell) for cell in block.cells)
        self.skip_projection = convolution(block.channels, skip, (1, 1)) if skip else None
        self.pool = Pool(block.channels, block.pool_channels, stride) if stride > 1 else None

    def forward(self, y: Tensor) -> tuple[Tensor, Tensor | None]:
        for cell in self.cells:
            y = cell(y)
        skip = None if self.skip_projection is None else self.skip_projection(y)
        return (y if self.pool is None else self.pool(y)), skip


class TopDown(nn.Module):
    """Decoder: latent groups from the coarsest to the finest, then the output layer."""

    def __init__(self, plan: HierarchicalVAEPlan, options: Model, checkpoint: bool) -> None:
        super().__init__()
        side = plan.top_resolution
        self.trainable_h = nn.Parameter(torch.zeros(1, plan.top_channels, side, side))
        self.class_emb = nn.Embedding(plan.num_classes + 1, plan.class_width) if plan.num_classes else None
        self.blocks = nn.ModuleList(TopDownBlock(block, options, plan.class_width) for block in plan.down)
        self.output_conv = convolution(plan.down[-1].channels, plan.output_channels, plan.output_kernel)
        self.skip_levels = tuple(block.skip_level for block in plan.down)
        self.checkpoint = checkpoint

    def forward(
        self,
        noise: Tensors,
        skips: list[Tensor] | None,
        temperatures: Sequence[float] | Tensor | None = None,
        latents: Tensors | None = None,
        masks: Masks = None,
        label: Tensor | None = None,
        guidance: Tensor | float | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        B = len(next(iter({**noise, **(latents or {})}.values())))
        y = self.features_before(0, {}, B)
        condition = class_condition(self.class_emb, label, B)
        aux: dict[str, Tensor] = {}
        for group, block in enumerate(self.blocks):
            skip = None if skips is None else skips[self.skip_levels[group]]
            given = (
                _nchw(noise.get(f"prior.{group}")),
                _nchw(noise.get(f"posterior.{group}")),
                None if temperatures is None else temperatures[group],
                None if latents is None else _nchw(latents[f"z.{group}"]),
                None if masks is None else rearrange(masks[group], "z -> 1 z 1 1"),
                guidance,
            )
            y, intermediates = call(block, y, skip, condition, given, checkpoint=self.checkpoint)
            aux |= {f"{name}.{group}": value.permute(0, 2, 3, 1) for name, value in intermediates.items()}
        return self.read_output({self.slot(0): y}), aux

    def slot(self, group: int) -> int:  # noqa: ARG002 - in other models it matters
        """Where the features behind a group's block are kept among `states`: here there is one place."""
        return 0

    def features_before(self, group: int, states: Mapping[int, Tensor], B: int) -> Tensor:
        """Features (B, C, h, w) that meet a group's block."""
        return states[0] if group else self.trainable_h.expand(B, -1, -1, -1)

    def read_output(self, states: Mapping[int, Tensor]) -> Tensor:
        """The output layer (B, H, W, outputs)."""
        return at_least_float32(self.output_conv(states[0])).permute(0, 2, 3, 1)


class TopDownBlock(LatentGroup):
    """One latent group: prior, posterior if there is a skip connection, and projection of the latents."""

    options: Model

    def __init__(self, block: DownBlock, options: Model, class_width: int) -> None:
        super().__init__()
        width, stride = block.channels, block.unpool_stride
        self.unpool = Unpool(block.in_channels, width, stride, block.resolution) if stride > 1 else None
        self.class_projection = nn.Linear(class_width, width, bias=False) if class_width else None
        self.prior_net = ResidualCell(block.prior_net)
        self.posterior_net = ResidualCell(block.posterior_net)
        self.prior_layer = convolution(width, 2 * block.variates, (1, 1))
        self.posterior_layer = convolution(width, 2 * block.variates, (1, 1))
        self.z_projection = convolution(block.variates, width, (1, 1))
        self.cells = nn.ModuleList(ResidualCell(cell) for cell in block.cells)
        self.options = options

    def read_prior(self, x: Tensor, condition: Tensor | None) -> tuple[Context, Gaussian]:
        x = x if self.unpool is None else self.unpool(x)
        x = with_class(x, self.class_projection, condition)
        residual, features = self.prior_net(x).chunk(2, 1)
        return Context(x, residual), gaussian(self.prior_layer(features), self.options)

    def read_posterior(self, context: Context, activation: Tensor, prior: Gaussian) -> Gaussian:
        statistics = self.posterior_layer(self.posterior_net(torch.cat([context.x, activation], 1)))
        return gaussian(statistics, self.options, prior if self.options.use_residual_distribution else None)

    def add_latents(self, context: Context, z: Tensor) -> Tensor:
        y = context.x + context.features + self.z_projection(z.to(context.x.dtype))
        for cell in self.cells:
            y = cell(y)
        return y


def _nchw(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.permute(0, 3, 1, 2)
