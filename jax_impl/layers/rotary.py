"""Rotary positions (Su et al. 2021): pairs of channels rotate by an angle proportional to the position."""

import jax.numpy as jnp
from einops import rearrange
from jax import Array

from jax_impl.layers.precision import at_least_float32


def rotate(x: Array, cos: Array, sin: Array, *, halves: bool = False) -> Array:
    """Rotate the first channels of x (B, L, N, K); cosines and sines are (L, N or 1, P), P <= K / 2.

    Pair p is channels 2p and 2p + 1 or, with `halves`, p and P + p. Channels after 2P are unchanged.
    """
    P = cos.shape[-1]
    cos, sin = (rearrange(table, "l n p -> 1 l n p") for table in (cos, sin))
    y, rest = at_least_float32(x[..., : 2 * P]), x[..., 2 * P :]
    a, b = (y[..., :P], y[..., P:]) if halves else (y[..., ::2], y[..., 1::2])
    rotated = (a * cos - b * sin, b * cos + a * sin)
    y = jnp.concatenate(rotated, -1) if halves else jnp.stack(rotated, -1).reshape(y.shape)
    return jnp.concatenate([y.astype(x.dtype), rest], -1)
