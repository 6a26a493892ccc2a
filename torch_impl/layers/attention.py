"""Multi-head attention (Vaswani et al. 2017, section 3.2). Sequences are (B, L, C), heads (B, L, N, K)."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from torch_impl.layers.dropout import Dropout
from torch_impl.layers.named import Tensors
from torch_impl.layers.precision import at_least_float32


class Attention(nn.Module):
    """Self-attention, or cross-attention to a context: (B, L, C) -> (B, L, C).

    `nn.MultiheadAttention` would draw dropout's noise itself and hold query, key and value in one tensor.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        context_width: int | None = None,
        bias: bool = False,
        rate: float = 0.0,
    ) -> None:
        super().__init__()
        context_width = width if context_width is None else context_width
        self.query = nn.Linear(width, width, bias=bias)
        self.key = nn.Linear(context_width, width, bias=bias)
        self.value = nn.Linear(context_width, width, bias=bias)
        self.out = nn.Linear(width, width, bias=bias)
        self.dropout = Dropout(rate)
        self.heads = heads

    def prepare(self, context: Tensor) -> dict[str, Tensor]:
        """Keys and values (B, S, N, K) of a context (B, S, C)."""
        return {
            "key": split_heads(self.key(context), self.heads),
            "value": split_heads(self.value(context), self.heads),
        }

    def forward(
        self,
        x: Tensor,
        prepared: Tensors | None = None,
        mask: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> Tensor:
        """Attend to the context in `prepared`, or to x. `mask` (B, S) is True at positions to attend to;
        `noise` (B, N, L, S) is uniform, for dropout."""
        prepared = self.prepare(x) if prepared is None else prepared
        query = split_heads(self.query(x), self.heads)
        y = attend(query, prepared["key"], prepared["value"], mask=mask, dropout=self.dropout, noise=noise)
        return self.out(y)


class PackedAttention(nn.Module):
    """Self-attention with query, key and value in one matrix: (B, L, C) -> (B, L, C).

    Its parameters are those of `nn.MultiheadAttention`, which in evaluation has another kernel that neither
    compiles nor exports.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.in_proj_weight = nn.Parameter(torch.zeros(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        self.heads = heads

    def forward(self, x: Tensor) -> Tensor:
        parts = self.project(x).chunk(3, -1)
        return self.out_proj(attend(*(split_heads(part, self.heads) for part in parts)))

    def project(self, x: Tensor) -> Tensor:
        """Queries, keys and values: (B, L, C) -> (B, L, 3 C)."""
        return F.linear(x, self.in_proj_weight, self.in_proj_bias)


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    mask: Tensor | None = None,
    scale: float | None = None,
    dropout: Dropout | None = None,
    noise: Tensor | None = None,
) -> Tensor:
    """softmax(scale q k^T) v, with the heads concatenated: (B, L, N, K), (B, S, N, K), (B, S, N, K) ->
    (B, L, N K).

    `scale` is 1 / sqrt(K) by default. If a row of `mask` (B, S) has no True, its result is zero. Dropout acts
    on the probabilities, with `noise` (B, N, L, S) if given.
    """
    seen = None
    if mask is not None:
        seen = mask.any(1, keepdim=True)
        mask = rearrange(mask | ~seen, "b s -> b 1 1 s")
    q, k, v = (rearrange(heads, "b l n k -> b n l k") for heads in (query, key, value))
    if dropout is None or noise is None or not dropout.p:
        rate = dropout.p if dropout is not None and dropout.training else 0.0
        y = _fused(q, k, v, mask, rate, scale)
    else:
        scale = q.shape[-1] ** -0.5 if scale is None else scale
        logits = at_least_float32(q @ k.transpose(-2, -1)) * scale
        logits = logits if mask is None else logits.masked_fill(~mask, -torch.inf)
        y = dropout(logits.softmax(-1).to(v.dtype), noise) @ v
    y = rearrange(y, "b n l k -> b l (n k)")
    return y if seen is None else y * rearrange(seen, "b 1 -> b 1 1").to(y.dtype)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, L, N K) -> (B, L, N, K)."""
    return rearrange(x, "b l (n k) -> b l n k", n=heads)


def _fused(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float, scale: float | None
) -> Tensor:
    """Attention (B, N, L, K) that does not hold its probabilities. The meta device has no kernel for it, and
    follows the CPU's."""
    if q.is_meta:
        kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        y: Tensor = kernel(q, k, v, dropout, attn_mask=mask, scale=scale)[0]
        return y
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, scale=scale)
