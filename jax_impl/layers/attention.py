"""Multi-head attention (Vaswani et al. 2017, section 3.2). Sequences are (B, L, C), heads (B, L, N, K)."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax import Array

from jax_impl.layers.dense import Linear, broadcast
from jax_impl.layers.dropout import Dropout
from jax_impl.layers.named import Arrays


class Attention(nnx.Module):
    """Self-attention, or cross-attention to a context: (B, L, C) -> (B, L, C).

    `nnx.MultiHeadAttention` would draw dropout's noise itself and has kernels of three axes.
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
        context_width = width if context_width is None else context_width
        self.query = Linear(width, width, use_bias=bias)
        self.key = Linear(context_width, width, use_bias=bias)
        self.value = Linear(context_width, width, use_bias=bias)
        self.out = Linear(width, width, use_bias=bias)
        self.dropout = Dropout(rate)
        self.heads = heads

    def prepare(self, context: Array) -> dict[str, Array]:
        """Keys and values (B, S, N, K) of a context (B, S, C)."""
        return {
            "key": split_heads(self.key(context), self.heads),
            "value": split_heads(self.value(context), self.heads),
        }

    def __call__(
        self,
        x: Array,
        prepared: Arrays | None = None,
        mask: Array | None = None,
        noise: Array | None = None,
    ) -> Array:
        """Attend to the context in `prepared`, or to x. `mask` (B, S) is True at positions to attend to;
        `noise` (B, N, L, S) is uniform, for dropout."""
        prepared = self.prepare(x) if prepared is None else prepared
        query = split_heads(self.query(x), self.heads)
        y = attend(query, prepared["key"], prepared["value"], mask=mask, dropout=self.dropout, noise=noise)
        return self.out(y)


class PackedAttention(nnx.Module):
    """Self-attention with query, key and value in one matrix: (B, L, C) -> (B, L, C).

    Its parameters are those of PyTorch's `nn.MultiheadAttention`, the matrix (3 C, C) also here.
    """

    def __init__(self, width: int, heads: int) -> None:
        self.in_proj_weight = nnx.Param(jnp.zeros((3 * width, width)))
        self.in_proj_bias = nnx.Param(jnp.zeros(3 * width))
        self.out_proj = Linear(width, width)
        self.heads = heads

    def __call__(self, x: Array) -> Array:
        parts = jnp.split(self.project(x), 3, -1)
        return self.out_proj(attend(*(split_heads(part, self.heads) for part in parts)))

    def project(self, x: Array) -> Array:
        """Queries, keys and values: (B, L, C) -> (B, L, 3 C)."""
        y = jnp.dot(x, self.in_proj_weight[...].T)
        return y + broadcast(self.in_proj_bias[...], y)


_IN_TURN_FROM = 2**18
"""Number of scores of a head, L * S, from which a CPU is faster with one head at a time: its caches hold the
scores of one head, but not of all."""


def attend(
    query: Array,
    key: Array,
    value: Array,
    *,
    mask: Array | None = None,
    scale: float | None = None,
    dropout: Dropout | None = None,
    noise: Array | None = None,
) -> Array:
    """softmax(scale q k^T) v, with the heads concatenated: (B, L, N, K), (B, S, N, K), (B, S, N, K) ->
    (B, L, N K).

    `scale` is 1 / sqrt(K) by default. If a row of `mask` (B, S) has no True, its result is zero. Dropout acts
    on the probabilities, with `noise` (B, N, L, S) if given. The heads' axis is moved next to the batch's, so
    that the products are plain matrix products, several times faster on a CPU.
    """
    seen = None
    q, k, v = (rearrange(heads, "b l n k -> b n l k") for heads in (query, key, value))
    if mask is not None:
        seen = mask.any(1, keepdims=True)
        mask = jnp.broadcast_to(rearrange(mask | ~seen, "b s -> b 1 s"), (*k.shape[:2], mask.shape[1]))
    if dropout is not None and noise is None:
        noise = dropout.draw((*q.shape[:3], k.shape[2]))
    head = partial(_head, scale=q.shape[-1] ** -0.5 if scale is None else scale, dropout=dropout)
    if jax.default_backend() == "cpu" and q.shape[2] * k.shape[2] >= _IN_TURN_FROM:
        y = _head_by_head(head, (q, k, v, mask, noise))
    else:
        y = jax.vmap(jax.vmap(head))(q, k, v, mask, noise)
    y = rearrange(y, "b n l k -> b l (n k)")
    return y if seen is None else y * rearrange(seen, "b 1 -> b 1 1").astype(y.dtype)


def _head(
    q: Array,
    k: Array,
    v: Array,
    mask: Array | None,
    noise: Array | None,
    *,
    scale: float,
    dropout: Dropout | None,
) -> Array:
    """One head: (L, K), (S, K), (S, K), mask (S,), noise (L, S) -> (L, K)."""
    precision = jnp.promote_types(q.dtype, jnp.float32)
    logits = jnp.matmul(q * scale, k.T, preferred_element_type=precision)
    logits = logits if mask is None else jnp.where(broadcast(mask, logits), logits, -jnp.inf)
    # The softmax by hand: scaling queries and dividing results is cheaper than doing both to the scores.
    weights = jnp.exp(logits - jax.lax.stop_gradient(logits.max(-1, keepdims=True)))
    total, weights = weights.sum(-1, keepdims=True), weights.astype(v.dtype)
    weights = weights if dropout is None or noise is None else dropout(weights, noise)
    return (jnp.matmul(weights, v, preferred_element_type=precision) / total).astype(v.dtype)


def _head_by_head(head: Callable[..., Array], arrays: tuple[Array | None, ...]) -> Array:
    """Map `head` over the first two axes (B, N), one at a time; the backward pass recomputes the scores."""
    shape = next(array.shape[:2] for array in arrays if array is not None)
    flat = jax.tree.map(lambda array: rearrange(array, "b n ... -> (b n) ..."), arrays)
    y: Array = jax.lax.map(jax.checkpoint(lambda one: head(*one), prevent_cse=False), flat)
    return y.reshape(*shape, *y.shape[1:])


def split_heads(x: Array, heads: int) -> Array:
    """(B, L, N K) -> (B, L, N, K)."""
    return rearrange(x, "b l (n k) -> b l n k", n=heads)
