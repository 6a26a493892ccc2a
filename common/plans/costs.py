"""Arithmetic that a plan's convolutions cost; activations, sampling and the optimiser are not counted.

A multiplication and an addition are two operations. The backward pass of a convolution costs two of its kind,
one for the input's gradient and one for the kernel's, so a training step counts as three forward passes.
"""

from common.plans.hierarchical_vae import Cell, DownBlock, HierarchicalVAEPlan, UpBlock


def generation_flops(plan: HierarchicalVAEPlan) -> int:
    """Operations to generate one picture: the top-down path without the posterior."""
    groups = sum(_down_block(block, posterior=False) for block in plan.down)
    return groups + _output(plan)


def forward_flops(plan: HierarchicalVAEPlan) -> int:
    """Operations to encode and decode one picture."""
    first = _convolution(plan.channels, plan.input_channels, plan.input_kernel, plan.resolution)
    up = sum(_up_block(block) for block in plan.up)
    down = sum(_down_block(block, posterior=True) for block in plan.down)
    return first + up + down + _output(plan)


def training_flops(plan: HierarchicalVAEPlan) -> int:
    """Operations of a training step for one picture."""
    return 3 * forward_flops(plan)


def _convolution(inputs: int, outputs: int, kernel: tuple[int, int], resolution: int) -> int:
    return 2 * inputs * outputs * kernel[0] * kernel[1] * resolution**2


def _pointwise(inputs: int, outputs: int, resolution: int) -> int:
    return _convolution(inputs, outputs, (1, 1), resolution)


def _cell(cell: Cell, resolution: int) -> int:
    return sum(_convolution(i, o, (k, k), resolution) for i, o, k in cell.convolutions)


def _up_block(block: UpBlock) -> int:
    """Pooling by a stride of s is a convolution with an s x s kernel at the lower resolution."""
    stride, side = block.pool_stride, block.resolution
    total = sum(_cell(cell, side) for cell in block.cells)
    total += _pointwise(block.channels, block.skip_channels, side)
    if stride > 1:
        total += _convolution(block.channels, block.pool_channels, (stride, stride), side // stride)
    return total


def _down_block(block: DownBlock, *, posterior: bool) -> int:
    side, width = block.resolution, block.channels
    statistics = _pointwise(width, 2 * block.variates, side)
    total = _cell(block.prior_net, side) + statistics + _pointwise(block.variates, width, side)
    total += sum(_cell(cell, side) for cell in block.cells)
    if block.unpool_stride > 1:
        total += _pointwise(block.in_channels, width, side // block.unpool_stride)
    if posterior:
        total += _cell(block.posterior_net, side) + statistics
    return total


def _output(plan: HierarchicalVAEPlan) -> int:
    return _convolution(plan.down[-1].channels, plan.output_channels, plan.output_kernel, plan.resolution)
