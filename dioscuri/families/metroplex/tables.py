"""Parameters of Metroplex: canonical names, shapes and initial values (its section on training).

Kernels are initially uniform within sqrt(1 / outputs) / sqrt(scale); in the last layer of a residual branch
the scale is the number of blocks.
"""

from math import sqrt
from typing import Any

from dioscuri.families.hierarchical_vae.plan import Cell
from dioscuri.families.latent_models.grids import AXES, Grid
from dioscuri.families.metroplex.blocks import (
    AttentionDownBlock,
    AttentionUpBlock,
    DownBlock,
    SelfAttention,
    UpBlock,
)
from dioscuri.families.metroplex.options import HParams, Model
from dioscuri.families.metroplex.plan import MetroplexPlan
from dioscuri.plans.parameters import ONES, ZEROS, Init, Parameter, Table

DMOL_SIGMA_LIMIT = 0.02


def parameter_table(hparams: HParams, plan: MetroplexPlan) -> Table:
    """Every parameter under its canonical name, layers in order of execution."""
    return _Tables(hparams.model, plan).all()


class _Tables:
    """Parameters of all layers of a plan."""

    def __init__(self, model: Model, plan: MetroplexPlan) -> None:
        self.model, self.plan = model, plan
        self.pointwise = (1,) * plan.rank

    def all(self) -> Table:
        plan = self.plan
        inputs = plan.channels * plan.patch_size
        table = self.convolution("bottom_up.input_conv", inputs, plan.width, plan.input_kernel)
        for n, up in enumerate(plan.up):
            name = f"bottom_up.blocks.{n}"
            table |= self.up_block(name, up) if isinstance(up, UpBlock) else self.attention_up_block(name, up)
        for resolution in plan.start:
            first = next(block for block in plan.down if block.resolution == resolution)
            table[f"top_down.start.{resolution}"] = Parameter((1, first.channels, *first.grid), ZEROS)
        if plan.num_classes:
            rows = plan.num_classes + 1
            table["top_down.class_emb.weight"] = Parameter((rows, plan.class_width), Init("normal"))
        for n, down in enumerate(plan.down):
            name = f"top_down.blocks.{n}"
            if plan.num_classes:
                init = self.uniform(down.channels, len(plan.down))
                kernel = Parameter((down.channels, plan.class_width), init)
                table[f"{name}.class_projection.weight"] = kernel
            if isinstance(down, DownBlock):
                table |= self.down_block(name, down)
            else:
                table |= self.attention_down_block(name, down)
        if plan.affine:
            shape = (1, plan.top_width, *self.pointwise)
            table["top_down.gain"] = Parameter(shape, ONES)
            table["top_down.bias"] = Parameter(shape, ZEROS)
        outputs = plan.head_channels * plan.patch_size
        table |= self.convolution("top_down.output_conv", plan.top_width, outputs)
        if plan.shared_scale == "full":
            table["top_down.log_scale"] = Parameter((1,), Init("uniform", DMOL_SIGMA_LIMIT))
        return table

    def up_block(self, name: str, block: UpBlock) -> Table:
        table = self.attention(f"{name}.attention", block.attention) if block.attention else {}
        return table | self.cell(f"{name}.cell", block.cell, scale=len(self.plan.up))

    def down_block(self, name: str, block: DownBlock) -> Table:
        n, width = len(self.plan.down), block.channels
        table = self.attention(f"{name}.attention", block.attention) if block.attention else {}
        table |= self.cell(f"{name}.posterior", block.posterior)
        table |= self.cell(f"{name}.prior", block.prior, zero=True)
        table |= self.convolution(f"{name}.z_projection", block.variates, width, scale=n)
        return table | self.cell(f"{name}.residual", block.residual, scale=n)

    def attention_up_block(self, name: str, block: AttentionUpBlock) -> Table:
        table = self.relative_attention(f"{name}.attention", block.attention)
        return table | self.feed_forward(
            f"{name}.feed_forward", block.attention.width, block.attention.width, len(self.plan.up)
        )

    def attention_down_block(self, name: str, block: AttentionDownBlock) -> Table:
        n, width, variates = len(self.plan.down), block.channels, block.variates
        table = self.relative_attention(f"{name}.attention", block.attention)
        table |= self.convolution(f"{name}.prior_layer", width, 2 * variates, zero=True)
        if block.posterior_cell is not None:
            table |= self.cell(f"{name}.posterior", block.posterior_cell)
        elif block.posterior == "ffn":
            table |= self.feed_forward(f"{name}.posterior", 2 * width, width, n)
        else:
            table |= self.relative_attention(f"{name}.posterior", block.attention, cross=True)
        table |= self.convolution(f"{name}.posterior_layer", width, 2 * variates)
        table |= self.convolution(f"{name}.z_projection", variates, width, scale=n)
        return table | self.feed_forward(f"{name}.feed_forward", width, width, n)

    def relative_attention(self, name: str, attention: SelfAttention, *, cross: bool = False) -> Table:
        width = attention.width
        first = Init("uniform", sqrt(1 / width)) if self.model.random_init_posenc else Init("triangle")
        table = self.convolution(
            f"{name}.query" if cross else f"{name}.qkv", width, width * (1 if cross else 3)
        )
        table |= self.convolution(f"{name}.out", width, width) | self.norm(name, width)
        for axis, length in zip(AXES[self.plan.rank], attention.grid, strict=True):
            table[f"{name}.{axis}_bias"] = Parameter((attention.heads, 2 * length - 1), first)
        return table | ({f"{name}.gate": Parameter((1,), ZEROS)} if self.plan.gated else {})

    def feed_forward(self, name: str, inputs: int, width: int, scale: int) -> Table:
        table = self.convolution(f"{name}.convs.0", inputs, 4 * width)
        table |= self.convolution(f"{name}.convs.1", 4 * width, width, scale=scale) | self.norm(name, inputs)
        return table | ({f"{name}.gate": Parameter((1,), ZEROS)} if self.plan.gated else {})

    def norm(self, name: str, width: int) -> Table:
        """The norm before a transformer's layer, if there is one."""
        if self.model.norm == "none":
            return {}
        return {
            f"{name}.norm.weight": Parameter((width,), ONES),
            f"{name}.norm.bias": Parameter((width,), ZEROS),
        }

    def attention(self, name: str, attention: SelfAttention) -> Table:
        table: Table = {}
        for layer in ("query", "key", "value", "out"):
            first = self.uniform(attention.width, 1)
            table[f"{name}.{layer}.weight"] = Parameter((attention.width, attention.width), first)
            table[f"{name}.{layer}.bias"] = Parameter((attention.width,), ZEROS)
        return table

    def cell(self, name: str, cell: Cell, *, scale: float = 1, zero: bool = False) -> Table:
        table: Table = {}
        last = len(cell.convolutions) - 1
        for k, (inputs, outputs, kernel) in enumerate(cell.convolutions):
            initialisation: dict[str, Any] = {"scale": scale, "zero": zero} if k == last else {}
            table |= self.convolution(f"{name}.convs.{k}", inputs, outputs, kernel, **initialisation)
        return table

    def convolution(
        self,
        name: str,
        inputs: int,
        outputs: int,
        kernel: Grid | None = None,
        *,
        scale: float = 1,
        zero: bool = False,
    ) -> Table:
        first = ZEROS if zero and self.model.zero_weights else self.uniform(outputs, scale)
        return {
            f"{name}.weight": Parameter((outputs, inputs, *(kernel or self.pointwise)), first),
            f"{name}.bias": Parameter((outputs,), ZEROS),
        }

    def uniform(self, outputs: int, scale: float) -> Init:
        """Uniform within sqrt(1 / outputs) / sqrt(scale), or as `init_std` and `init_scale` say."""
        limit = self.model.init_std or sqrt(1 / outputs)
        return Init("uniform", limit / sqrt(self.model.init_scale or scale))
