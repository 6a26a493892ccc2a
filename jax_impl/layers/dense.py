"""Dense layers and embeddings. Channels are the last axis."""

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from jax_impl.layers.precision import cast


class Dense(nnx.Module):
    """(..., I) -> (..., O). Parameters begin as zeros; `dtype` is that of the arithmetic, None: as the input.

    With `pointwise` it is a 1x1 convolution, whose canonical kernel has the shape (O, I, 1, 1).
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        bias: bool = False,
        pointwise: bool = False,
        dtype: DTypeLike | None = None,
    ) -> None:
        self.kernel = nnx.Param(jnp.zeros((*((1, 1) if pointwise else ()), inputs, outputs)))
        self.bias = nnx.Param(jnp.zeros(outputs)) if bias else None
        self.dtype = dtype

    def __call__(self, x: Array, outputs: int | None = None) -> Array:
        """`outputs`: the first of them alone."""
        kernel = cast(self.kernel[..., :outputs], self.dtype)
        # Rows side by side: the kernel's gradient is then a plain product, without a transposed copy.
        rows = cast(x, self.dtype).reshape(-1, x.shape[-1])
        y = jnp.dot(rows, kernel.reshape(kernel.shape[-2:]))
        y = y if self.bias is None else y + broadcast(cast(self.bias[:outputs], self.dtype), y)
        return y.reshape(*x.shape[:-1], y.shape[-1])


class Embedding(nnx.Module):
    """A row for each id: ids (...) -> (..., C) in the compute dtype."""

    def __init__(self, rows: int, width: int, *, dtype: DTypeLike | None = None) -> None:
        self.embedding = nnx.Param(jnp.zeros((rows, width)))
        self.dtype = dtype

    def __call__(self, ids: Array) -> Array:
        return cast(self.embedding[...][ids], self.dtype)

    def first(self, n: int) -> Array:
        """Rows 0 to n - 1: (n, C)."""
        return cast(self.embedding[...][:n], self.dtype)

    def logits(self, x: Array, bias: Array, outputs: int | None = None) -> Array:
        """Products with every row, or the first `outputs`, and a bias a row: (..., C), (V,) -> (..., V) (tied
        output layer)."""
        y = jnp.dot(cast(x, self.dtype), cast(self.embedding[:outputs], self.dtype).T)
        return y + broadcast(cast(bias[:outputs], self.dtype), y)


def broadcast(vector: Array, x: Array) -> Array:
    """A vector (C,) as an array of the rank of x (..., C), for element-wise arithmetic with it."""
    return vector.reshape((1,) * (x.ndim - 1) + vector.shape)
