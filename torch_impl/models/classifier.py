"""A small residual classifier (He et al. 2016) whose norms act on single pixels, without batch statistics.

Inputs and outputs are NHWC; inside, tensors are NCHW with channels last in memory.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from dioscuri.families.classifier.plan import ClassifierPlan
from torch_impl.layers.convolution import convolution
from torch_impl.layers.precision import at_least_float32
from torch_impl.pretrained import Pretrained

EPSILON = 1e-5
"""Added to the variance in norms."""


class Classifier(Pretrained, nn.Module):
    """Levels of blocks with the resolution halved between them, a mean over the grid, and a dense layer."""

    def __init__(self, plan: ClassifierPlan) -> None:
        super().__init__()
        self.levels: Any = nn.ModuleList(
            nn.ModuleList(
                ClassifierBlock(inputs, outputs, residual=j > 0) for j, (inputs, outputs) in enumerate(level)
            )
            for level in plan.blocks
        )
        self.output = nn.Linear(plan.width, plan.num_classes)

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Pictures (B, H, W, C) in [-1, 1] -> logits (B, K) and `features` (B, D), in at least float32."""
        y = x.to(self.output.weight.dtype).permute(0, 3, 1, 2)
        for i, level in enumerate(self.levels):
            y = F.avg_pool2d(y, 2) if i else y
            for block in level:
                y = block(y)
        features = at_least_float32(y).mean((2, 3))
        return at_least_float32(self.output(features.to(y.dtype))), {"features": features}


class ClassifierBlock(nn.Module):
    """3x3 convolution, norm, ReLU and, if residual, the input added: (B, I, H, W) -> (B, O, H, W)."""

    def __init__(self, inputs: int, outputs: int, *, residual: bool) -> None:
        super().__init__()
        self.conv = convolution(inputs, outputs, (3, 3))
        self.norm = nn.LayerNorm(outputs, EPSILON)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm(self.conv(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
        return x + y if self.residual else y
