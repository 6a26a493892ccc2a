"""Attention on a square grid with content-scaled factorised relative bias (Metroplex)."""

import torch
from einops import rearrange
from torch import Tensor, nn

from common.plans.metroplex import SelfAttention
from torch_impl.layers.convolution import Conv2d
from torch_impl.layers.norms import ChannelNorm
from torch_impl.layers.precision import at_least_float32, cast


class RelativeAttention(nn.Module):
    """Attention of maps (B, C, L, L) to themselves or, with `cross`, to another map, unprojected.

    The logits q k^T gain |q| r1[y' - y] r2[x' - x]; no gradient flows through |q|. `gated`: the result begins
    as zeros.
    """

    def __init__(
        self,
        plan: SelfAttention,
        dtype: torch.dtype | None = None,
        *,
        cross: bool = False,
        gated: bool = True,
    ) -> None:
        super().__init__()
        width = plan.width
        if cross:
            self.query = Conv2d(width, width, dtype=dtype)
        else:
            self.qkv = Conv2d(width, 3 * width, dtype=dtype)
        self.out = Conv2d(width, width, dtype=dtype)
        self.row_bias = nn.Parameter(torch.zeros(plan.heads, 2 * plan.side - 1))
        self.column_bias = nn.Parameter(torch.zeros(plan.heads, 2 * plan.side - 1))
        self.norm = ChannelNorm(width) if plan.norm else None
        if gated:
            self.gate = nn.Parameter(torch.zeros(1))
        self.plan, self.cross, self.gated = plan, cross, gated

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """What attention to `context`, or to x, adds: (B, C, L, L)."""
        x = x if self.norm is None else self.norm(x)
        q, k, v = (self.query(x), context, context) if self.cross else self.qkv(x).chunk(3, 1)
        q, k, v = (rearrange(maps, "b (n k) h w -> b n (h w) k", n=self.plan.heads) for maps in (q, k, v))
        length = torch.linalg.vector_norm(at_least_float32(q.detach()), dim=-1, keepdim=True)
        logits = at_least_float32(q @ k.transpose(-2, -1)) + length * self._bias()
        weights = (logits * (self.plan.width // self.plan.heads) ** -0.5).softmax(-1)
        y = rearrange(weights.to(v.dtype) @ v, "b n (h w) k -> b (n k) h w", h=self.plan.side)
        return scaled(self.out(y), self.gate if self.gated else None)

    def _bias(self) -> Tensor:
        """Product of the rows' and columns' biases (N, L L, L L)."""
        side = self.plan.side
        position = torch.arange(side, device=self.row_bias.device)
        offset = rearrange(position, "s -> 1 s") - rearrange(position, "y -> y 1") + side - 1
        rows = rearrange(self.row_bias[:, offset], "n y s -> n y 1 s 1")
        columns = rearrange(self.column_bias[:, offset], "n x t -> n 1 x 1 t")
        return rearrange(rows * columns, "n y x s t -> n (y x) (s t)")


def scaled(y: Tensor, gate: Tensor | None) -> Tensor:
    """y times its gate (1,), if it has one."""
    return y if gate is None else y * cast(gate, y.dtype)
