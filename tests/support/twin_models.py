"""Helpers of the twins' comparisons: canonical weights in models, exact products."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

from dioscuri.plans.layout import pack, unpack
from jax_impl.optim import flat as jax_flat
from torch_impl.optim import flat as torch_flat

Arrays = dict[str, np.ndarray]
Shapes = Mapping[str, tuple[int, ...]]


def _every_name(_: str) -> bool:
    return True


def bound(
    model: torch.nn.Module,
    weights: Arrays,
    shapes: Shapes,
    dtype: Any,
    *,
    decayed: Callable[[str], bool] = _every_name,
    compute: torch.dtype | None = None,
) -> torch.nn.Module:
    """The model with canonical weights in a NumPy dtype, or cast to `compute`."""
    layout = torch_flat.flat_layout(model, shapes, decayed)
    flat = torch.from_numpy(pack(weights, layout, dtype))
    torch_flat.bind(model, flat if compute is None else flat.to(compute), layout)
    return model


class JaxModel:
    """A split NNX model, and the conversion of canonical weights to its parameters."""

    def __init__(
        self, build: Callable[[], nnx.Module], shapes: Shapes, decayed: Callable[[str], bool] = _every_name
    ) -> None:
        parts: Any = nnx.split(nnx.eval_shape(build), nnx.Param, ...)
        self.graph, params, self.rest = parts
        self.layout, self.tree = jax_flat.flat_layout(params, shapes, decayed)

    def params(self, weights: Arrays, dtype: Any, compute: Any = None) -> Any:
        """Parameters of canonical weights in a dtype, or cast to `compute`."""
        flat = pack(weights, self.layout, dtype if compute is None else compute)
        return jax.tree.map(jnp.array, jax_flat.split(flat, self.layout, self.tree))

    def merge(self, params: Any) -> Any:
        """The model with the given parameters, which may be traced."""
        return nnx.merge(self.graph, params, self.rest)

    def canonical(self, params: Any, prefix: str = "") -> Arrays:
        """Parameters, or their gradients, under canonical names."""
        arrays = jax.tree.map(np.asarray, params)
        return unpack(jax_flat.join(arrays, self.layout, self.tree), self.layout, prefix)


@contextmanager
def arithmetic(dtype: Any) -> Iterator[None]:
    """JAX in float64, if that is the dtype, and with exact products."""
    with jax.enable_x64(np.dtype(dtype) == np.float64), jax.default_matmul_precision("highest"):
        yield
