"""Blocks of Meissonic's transformer, those of Flux: the states of a text (B, S, C) and a picture (B, L, C)
attend to each other. Adaptive norms have the activated embedding (B, C) of time and condition as input."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from dioscuri.families.maskgit.plan import TransformerPlan
from torch_impl.layers.attention import attend, split_heads
from torch_impl.layers.norms import make_norm, modulated
from torch_impl.layers.rotary import rotate


class FeedForward(nn.Module):
    """Dense layer, GELU (tanh form), dense layer: (B, L, C) -> (B, L, C)."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        first = nn.ModuleDict({"proj": nn.Linear(width, inner)})
        self.net = nn.ModuleDict({"0": first, "2": nn.Linear(inner, width)})

    def forward(self, x: Tensor) -> Tensor:
        first: nn.ModuleDict = self.net["0"]  # type: ignore[assignment] # not a tensor
        return self.net["2"](F.gelu(first["proj"](x), approximate="tanh"))


class JointBlock(nn.Module):
    """Attention of both, then a feed-forward layer for each: (text, picture) -> (text, picture)."""

    def __init__(self, plan: TransformerPlan) -> None:
        super().__init__()
        C = plan.options.hidden_size
        self.norm1 = nn.ModuleDict({"linear": nn.Linear(C, 6 * C)})
        self.norm1_context = nn.ModuleDict({"linear": nn.Linear(C, 6 * C)})
        self.attn = JointAttention(plan)
        self.ff = FeedForward(C, plan.inner)
        self.ff_context = FeedForward(C, plan.inner)
        self.norm = make_norm("layernorm", C, plan.eps, scale=False)

    def forward(
        self, states: tuple[Tensor, Tensor], embedded: Tensor, cos: Tensor, sin: Tensor
    ) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Both states, twice; cosines and sines are those of `rotate`."""
        context, x = states
        for_context, for_x = (
            self.norm1_context["linear"](embedded).chunk(6, -1),
            self.norm1["linear"](embedded).chunk(6, -1),
        )
        normed_context = modulated(self.norm(context), for_context[1], for_context[0])
        normed_x = modulated(self.norm(x), for_x[1], for_x[0])
        attended_context, attended_x = self.attn(normed_context, normed_x, cos, sin)
        context = self._added(context, attended_context, for_context, self.ff_context)
        x = self._added(x, attended_x, for_x, self.ff)
        return (context, x), (context, x)

    def _added(
        self, x: Tensor, attended: Tensor, modulation: Sequence[Tensor], feed_forward: FeedForward
    ) -> Tensor:
        """x plus both branches; `modulation` has shift, scale and gate of attention, then of the layer."""
        _, _, gate, shift, scale, last_gate = modulation
        x = x + gated(gate, attended)
        return x + gated(last_gate, feed_forward(modulated(self.norm(x), scale, shift)))


class SharedBlock(nn.Module):
    """Attention beside a feed-forward layer, of text and picture (B, S + L, C) -> the same, twice."""

    def __init__(self, plan: TransformerPlan) -> None:
        super().__init__()
        C = plan.options.hidden_size
        self.norm = nn.ModuleDict({"linear": nn.Linear(C, 3 * C)})
        self.proj_mlp = nn.Linear(C, plan.inner)
        self.proj_out = nn.Linear(C + plan.inner, C)
        self.attn = SelfAttention(plan)
        self.layer_norm = make_norm("layernorm", C, plan.eps, scale=False)

    def forward(self, x: Tensor, embedded: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        shift, scale, gate = self.norm["linear"](embedded).chunk(3, -1)
        y = modulated(self.layer_norm(x), scale, shift)
        inner = F.gelu(self.proj_mlp(y), approximate="tanh")
        x = x + gated(gate, self.proj_out(torch.cat([self.attn(y, cos, sin), inner], -1)))
        return x, x


class SelfAttention(nn.Module):
    """Attention with rotary positions; a head's queries and keys are RMS-normed: (B, L, C) -> (B, L, C)."""

    def __init__(self, plan: TransformerPlan) -> None:
        super().__init__()
        C, self.heads = plan.options.hidden_size, plan.options.num_attention_heads
        self.to_q, self.to_k, self.to_v = (nn.Linear(C, C) for _ in range(3))
        self.norm_q, self.norm_k = (nn.RMSNorm(plan.head_dim, plan.eps) for _ in range(2))

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (B, L, N, K)."""
        q, k, v = (split_heads(layer(x), self.heads) for layer in (self.to_q, self.to_k, self.to_v))
        return self.norm_q(q), self.norm_k(k), v

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        q, k, v = self.project(x)
        return attend(rotate(q, cos, sin), rotate(k, cos, sin), v)


class JointAttention(SelfAttention):
    """The same of a text and a picture, each with its weights: (B, S, C), (B, L, C) -> the same."""

    def __init__(self, plan: TransformerPlan) -> None:
        super().__init__(plan)
        C = plan.options.hidden_size
        self.add_q_proj, self.add_k_proj, self.add_v_proj = (nn.Linear(C, C) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(C, C)])
        self.to_add_out = nn.Linear(C, C)
        self.norm_added_q, self.norm_added_k = (nn.RMSNorm(plan.head_dim, plan.eps) for _ in range(2))

    def forward(  # type: ignore[override]  # two sequences
        self, context: Tensor, x: Tensor, cos: Tensor, sin: Tensor
    ) -> tuple[Tensor, Tensor]:
        layers = (self.add_q_proj, self.add_k_proj, self.add_v_proj)
        q, k, v = (split_heads(layer(context), self.heads) for layer in layers)
        pairs = zip((self.norm_added_q(q), self.norm_added_k(k), v), self.project(x), strict=True)
        q, k, v = (torch.cat(pair, 1) for pair in pairs)
        y = attend(rotate(q, cos, sin), rotate(k, cos, sin), v)
        S = context.shape[1]
        return self.to_add_out(y[:, :S]), self.to_out[0](y[:, S:])


def gated(gate: Tensor, y: Tensor) -> Tensor:
    """gate y: (B, C), (B, L, C) -> (B, L, C)."""
    return rearrange(gate, "b c -> b 1 c") * y
