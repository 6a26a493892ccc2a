"""The x-transformers encoder of SUNDAE on text: ScaleNorm, gated feed-forward layers, and rotary
positions that also rotate values."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dioscuri.families.sundae.plan import EPS, FEED_FORWARD, DenoiserPlan, text_angles
from torch_impl.layers.attention import attend, split_heads
from torch_impl.layers.norms import ScaleNorm
from torch_impl.layers.rotary import rotate
from torch_impl.layers.stack import apply_layers


class TextEncoder(nn.Module):
    """Alternating attention and feed-forward layers: (B, L, C) -> (B, L, C)."""

    def __init__(self, plan: DenoiserPlan, depth: int, *, checkpoint: bool) -> None:
        super().__init__()
        options = plan.options
        kinds = (TextAttention, TextFeedForward)
        self.layers = nn.ModuleList(TextLayer(plan, kinds[i % 2]) for i in range(2 * depth))
        self.angles = torch.from_numpy(text_angles(plan.n_tokens)) if options.use_rotary else None
        self.checkpoint = checkpoint

    def forward(self, x: Tensor) -> Tensor:
        cos = sin = None
        if self.angles is not None:
            dtype = torch.promote_types(x.dtype, torch.float32)
            cos, sin = (f(self.angles).to(x.device, dtype) for f in (torch.cos, torch.sin))
        per_layer = [()] * len(self.layers)
        return apply_layers(self.layers, x, (cos, sin), per_layer, checkpoint=self.checkpoint)[0]


class TextLayer(nn.ModuleDict):
    """x + function(norm(x)); the norm is named 0.0, the function 1."""

    def __init__(self, plan: DenoiserPlan, kind: type[nn.Module]) -> None:
        d = plan.options.dim
        norm = ScaleNorm(d) if plan.options.use_scalenorm else nn.LayerNorm(d, EPS)
        super().__init__({"0": nn.ModuleDict({"0": norm}), "1": kind(plan)})

    def forward(self, x: Tensor, cos: Tensor | None, sin: Tensor | None) -> tuple[Tensor, None]:
        norm: Any = self["0"]
        return x + self["1"](norm["0"](x), cos, sin), None


class TextAttention(nn.Module):
    """Self-attention: (B, L, C) -> (B, L, C)."""

    def __init__(self, plan: DenoiserPlan) -> None:
        super().__init__()
        d, inner = plan.options.dim, plan.attention_width
        self.to_q = nn.Linear(d, inner, bias=False)
        self.to_k = nn.Linear(d, inner, bias=False)
        self.to_v = nn.Linear(d, inner, bias=False)
        self.to_out = nn.Linear(inner, d)
        self.heads = plan.options.nb_heads

    def forward(self, x: Tensor, cos: Tensor | None, sin: Tensor | None) -> Tensor:
        heads = [split_heads(project(x), self.heads) for project in (self.to_q, self.to_k, self.to_v)]
        if cos is not None and sin is not None:
            heads = [rotate(y, cos, sin, halves=True) for y in heads]
        return self.to_out(attend(*heads))


class TextFeedForward(nn.Module):
    """Dense layer, gate or GELU, dense layer: (B, L, C) -> (B, L, C)."""

    def __init__(self, plan: DenoiserPlan) -> None:
        super().__init__()
        d, gated = plan.options.dim, plan.options.use_glu
        first = nn.Linear(d, FEED_FORWARD * d * (1 + gated))
        self.net: Any = nn.ModuleDict(
            {
                "0": nn.ModuleDict({"proj" if gated else "0": first}),
                "3": nn.Linear(FEED_FORWARD * d, d),
            }
        )
        self.gated = gated

    def forward(self, x: Tensor, cos: Tensor | None, sin: Tensor | None) -> Tensor:
        """The positions are not used."""
        del cos, sin
        y = self.net["0"]["proj" if self.gated else "0"](x)
        if not self.gated:
            return self.net["3"](F.gelu(y))
        y, gate = y.chunk(2, -1)
        return self.net["3"](y * F.gelu(gate))
