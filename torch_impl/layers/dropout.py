"""Dropout with given noise or, in training mode, with the framework's random numbers."""

from torch import Tensor, nn


class Dropout(nn.Dropout):
    """Zero with probability `p`; the rest is scaled by 1 / (1 - p).

    Given noise wins, whatever the mode: uniform on [0, 1), of the shape of x, zero where it is below p.
    Without it the default generator draws in training mode, and in evaluation mode x stays as it is.
    """

    def forward(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        if noise is None or not self.p:
            return super().forward(x)
        return x * (noise >= self.p).to(x.dtype) / (1 - self.p)
