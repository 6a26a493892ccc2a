"""Attention on a grid with content-scaled factorised relative bias (Metroplex)."""

import torch
from einops import rearrange
from torch import Tensor, nn

from dioscuri.families.latent_models.grids import AXES
from dioscuri.families.metroplex.blocks import SelfAttention
from torch_impl.layers.convolution import convolution
from torch_impl.layers.norms import ChannelNorm
from torch_impl.layers.precision import at_least_float32


class RelativeAttention(nn.Module):
    """Attention of maps (B, C, *grid) to themselves or, with `cross`, to another map.

    |q| r1[y' - y] r2[x' - x], with one factor per axis of the grid, is added to the logits q k^T; no gradient
    flows through |q|. `gated`: the result is initially zero.
    """

    def __init__(
        self,
        plan: SelfAttention,
        *,
        cross: bool = False,
        gated: bool = True,
    ) -> None:
        super().__init__()
        width, pointwise = plan.width, (1,) * len(plan.grid)
        if cross:
            self.query = convolution(width, width, pointwise)
        else:
            self.qkv = convolution(width, 3 * width, pointwise)
        self.out = convolution(width, width, pointwise)
        for axis, length in zip(AXES[len(plan.grid)], plan.grid, strict=True):
            setattr(self, f"{axis}_bias", nn.Parameter(torch.zeros(plan.heads, 2 * length - 1)))
        self.norm = ChannelNorm(width) if plan.norm else None
        if gated:
            self.gate = nn.Parameter(torch.zeros(1))
        self.plan, self.cross, self.gated = plan, cross, gated

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The residual of attention to `context`, or to x: (B, C, *grid)."""
        x = x if self.norm is None else self.norm(x)
        if self.cross:
            assert context is not None
            q, k, v = self.query(x), context, context
        else:
            q, k, v = self.qkv(x).chunk(3, 1)
        q, k, v = (rearrange(maps, "b (n k) ... -> b n (...) k", n=self.plan.heads) for maps in (q, k, v))
        length = torch.linalg.vector_norm(at_least_float32(q.detach()), dim=-1, keepdim=True)
        logits = at_least_float32(q @ k.transpose(-2, -1)) + length * self._bias()
        weights = (logits * (self.plan.width // self.plan.heads) ** -0.5).softmax(-1)
        y = rearrange(weights.to(v.dtype) @ v, "b n l k -> b (n k) l").unflatten(-1, self.plan.grid)
        return scaled(self.out(y), self.gate if self.gated else None)

    def _bias(self) -> Tensor:
        """Product of the biases of all axes (N, tokens, tokens)."""
        first, *others = (self._axis_bias(axis) for axis in AXES[len(self.plan.grid)])
        for other in others:
            product = rearrange(first, "n y s -> n y 1 s 1") * rearrange(other, "n x t -> n 1 x 1 t")
            first = rearrange(product, "n y x s t -> n (y x) (s t)")
        return first

    def _axis_bias(self, axis: str) -> Tensor:
        """Bias (N, L, L) of an axis of length L."""
        bias = getattr(self, f"{axis}_bias")
        length = (bias.shape[-1] + 1) // 2
        position = torch.arange(length, device=bias.device)
        offset = rearrange(position, "s -> 1 s") - rearrange(position, "y -> y 1") + length - 1
        return bias[:, offset]


def scaled(y: Tensor, gate: Tensor | None) -> Tensor:
    """y times its gate (1,), if there is one."""
    return y if gate is None else y * gate
