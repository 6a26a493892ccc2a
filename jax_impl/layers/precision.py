"""Precision: layers compute in their weights' dtype, statistics and likelihoods in at least float32."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array


def weights_dtype(module: nnx.Module) -> jnp.dtype:
    """The dtype of a module's parameters, in which it computes."""
    return jnp.dtype(jax.tree.leaves(nnx.state(module, nnx.Param))[0].dtype)


def at_least_float32(x: Array) -> Array:
    """Promote a bfloat16 or float16 array to float32; never demote."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
