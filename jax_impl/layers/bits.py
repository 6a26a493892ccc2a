"""Tokens as groups of bits, least significant first (Weber et al. 2024, MaskBit, section 3.3)."""

import jax.numpy as jnp
from einops import rearrange
from jax import Array
from jax.typing import DTypeLike

from jax_impl.layers.dense import broadcast


def split_tokens(tokens: Array, splits: int, bits: int) -> Array:
    """Tokens (B, N) -> their groups of `bits` bits (B, N M), those of a token one after the other."""
    tokens = rearrange(tokens, "b n -> b n 1")
    groups = tokens >> broadcast(bits * jnp.arange(splits), tokens) & 2**bits - 1
    return rearrange(groups, "b n m -> b (n m)")


def combine_groups(groups: Array, splits: int, bits: int) -> Array:
    """Groups (..., N M) -> tokens (..., N)."""
    groups = rearrange(groups, "... (n m) -> ... n m", m=splits)
    return (groups << broadcast(bits * jnp.arange(splits), groups)).sum(-1)


def signs(groups: Array, bits: int, dtype: DTypeLike) -> Array:
    """Groups (...) -> their bits as -1 and 1, (..., E); zeros for the mask, 2^bits."""
    groups = rearrange(groups, "... -> ... 1")
    values = (groups >> broadcast(jnp.arange(bits), groups) & 1) * 2 - 1
    return jnp.where(groups < 2**bits, values, 0).astype(dtype)
