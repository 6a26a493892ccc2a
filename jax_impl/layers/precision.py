"""Which arithmetic is used where: the network's is an option, statistics and likelihoods have >= float32."""

import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike


def cast(x: Array, dtype: DTypeLike | None) -> Array:
    """Convert to the compute dtype; None leaves the array as it is."""
    return x if dtype is None else x.astype(dtype)


def at_least_float32(x: Array) -> Array:
    """Promote a bfloat16 or float16 array to float32; never demote."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
