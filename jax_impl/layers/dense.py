"""Dense layers and embeddings of nnx that are initially zero. Channels are the last axis."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax import Array

from jax_impl.layers.initial import NO_KEYS, ZEROS


def to_weights(arrays: Any, /, dtype: Any = None, inexact: bool = True) -> Any:
    """Input, kernel and bias, with the input in the kernel's dtype; nnx would
    promote both to the wider one."""
    del dtype, inexact
    x, kernel, bias = arrays
    return x.astype(kernel.dtype), kernel, bias


class Linear(nnx.Linear):
    """(..., I) -> (..., O)."""

    def __init__(self, in_features: int, out_features: int, *, use_bias: bool = True) -> None:
        super().__init__(
            in_features,
            out_features,
            use_bias=use_bias,
            kernel_init=ZEROS,
            promote_dtype=to_weights,
            rngs=NO_KEYS,
        )

    def __call__(self, x: Array) -> Array:  # type: ignore[override]  # nnx's takes a sharding, too
        """Flatten rows, so that the kernel's gradient is a plain product, without a transposed copy."""
        y = super().__call__(x.reshape(-1, x.shape[-1]))
        return y.reshape(*x.shape[:-1], y.shape[-1])


class Logits(Linear):
    """A dense layer that can compute only its first `outputs`: (..., I) -> (..., outputs)."""

    def __call__(self, x: Array, outputs: int | None = None) -> Array:
        if outputs is None:
            return super().__call__(x)
        bias = jnp.zeros(outputs, x.dtype) if self.bias is None else self.bias[:outputs]
        return tied_logits(x, self.kernel[:, :outputs].T, bias)


class PointwiseDense(Logits):
    """A 1x1 convolution with channels last; its kernel, whose canonical shape is (O, I, 1, 1), is stored as a
    matrix: (..., I) -> (..., O)."""


class Embedding(nnx.Embed):
    """A row for each id: ids (...) -> (..., C)."""

    def __init__(self, num_embeddings: int, features: int) -> None:
        super().__init__(num_embeddings, features, embedding_init=ZEROS, rngs=NO_KEYS)

    def __call__(self, ids: Array) -> Array:  # type: ignore[override]  # nnx's takes a sharding, too
        """Unlike nnx, do not convert to the dtype at construction, and do not check the ids' range."""
        return self.embedding[...][ids]


def tied_logits(x: Array, rows: Array, bias: Array, outputs: int | None = None) -> Array:
    """Products with an embedding's rows (V, C), or the first `outputs` of them, plus a bias (V,):
    (..., C) -> (..., V)."""
    y = jnp.dot(x.astype(rows.dtype), rows[:outputs].T)
    return y + broadcast(bias[:outputs], y)


def broadcast(vector: Array, x: Array) -> Array:
    """A vector (C,) with the rank of x (..., C), for element-wise arithmetic with it."""
    return vector.reshape((1,) * (x.ndim - 1) + vector.shape)
