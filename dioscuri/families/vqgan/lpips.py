"""LPIPS (Zhang et al. 2018): which features of VGG16 (Simonyan and Zisserman 2015) are compared."""

from itertools import pairwise

BLOCKS = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
"""Convolutions between poolings, by torchvision's numbers; features are taken
after the last of each group."""

WIDTHS = (3, 64, 128, 256, 512, 512)
"""Channels of the pictures, and of the blocks."""

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""Subtracted from pictures in [-1, 1], which are then divided by the second."""

SMALLEST = 16
"""Side of a picture of which four poolings leave one pixel."""


def weight_shapes() -> dict[str, tuple[int, ...]]:
    """`features.<i>.{weight,bias}` of VGG16, kernels OIHW, and
    `lin<block>.weight`, one factor per channel."""
    shapes: dict[str, tuple[int, ...]] = {}
    for block, (convolutions, (inputs, outputs)) in enumerate(zip(BLOCKS, pairwise(WIDTHS), strict=True)):
        for index in convolutions:
            shapes[f"features.{index}.weight"] = (outputs, inputs, 3, 3)
            shapes[f"features.{index}.bias"] = (outputs,)
            inputs = outputs
        shapes[f"lin{block}.weight"] = (outputs,)
    return shapes
