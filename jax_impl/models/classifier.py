"""A small residual classifier (He et al. 2016) whose norms act on single pixels, without batch statistics.

Arrays are NHWC.
"""

import jax
from einops import reduce
from flax import nnx
from jax import Array

from dioscuri.families.classifier.plan import ClassifierPlan
from jax_impl.layers.convolution import convolution
from jax_impl.layers.dense import Linear
from jax_impl.layers.norms import LayerNorm
from jax_impl.layers.precision import at_least_float32
from jax_impl.pretrained import Pretrained

EPSILON = 1e-5
"""Added to the variance in norms."""


class Classifier(Pretrained, nnx.Module):
    """Levels of blocks with the resolution halved between them, a mean over the grid, and a dense layer."""

    def __init__(self, plan: ClassifierPlan) -> None:
        self.levels = nnx.List(
            [
                nnx.List(
                    [
                        ClassifierBlock(inputs, outputs, residual=j > 0)
                        for j, (inputs, outputs) in enumerate(level)
                    ]
                )
                for level in plan.blocks
            ]
        )
        self.output = Linear(plan.width, plan.num_classes)

    def __call__(self, x: Array) -> tuple[Array, dict[str, Array]]:
        """Pictures (B, H, W, C) in [-1, 1] -> logits (B, K) and `features` (B, D), in at least float32."""
        y = x
        for i, level in enumerate(self.levels):
            y = reduce(y, "b (h s) (w t) c -> b h w c", "mean", s=2, t=2) if i else y
            for block in level:
                y = block(y)
        features = at_least_float32(y).mean((1, 2))
        return at_least_float32(self.output(features)), {"features": features}


class ClassifierBlock(nnx.Module):
    """3x3 convolution, norm, ReLU and, if residual, the input added: (B, H, W, I) -> (B, H, W, O)."""

    def __init__(self, inputs: int, outputs: int, *, residual: bool) -> None:
        self.conv = convolution(inputs, outputs, (3, 3))
        self.norm = LayerNorm(outputs, EPSILON)
        self.residual = residual

    def __call__(self, x: Array) -> Array:
        y = jax.nn.relu(self.norm(self.conv(x)))
        return x + y if self.residual else y
