"""Between 8-bit pictures and the numbers that the model sees."""

import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from common.hparams.latents import LatentHParams
from common.plans.latents import LatentPlan


def normalise(
    images: Array, plan: LatentPlan, hparams: LatentHParams, dtype: DTypeLike = jnp.float32
) -> Array:
    """uint8 (B, H, W, C) -> [-1, 1] with the lowest bits cut off or, for the Bernoulli likelihood, 0 or 1."""
    if plan.likelihood == "bernoulli":
        return (images > 127).astype(dtype)
    step = 2 ** (8 - hparams.data.num_bits)
    levels = jnp.floor(images.astype(dtype) / step) * step
    return (levels - 127.5) / 127.5


def to_uint8(x: Array, plan: LatentPlan) -> Array:
    """Pictures as `normalise` makes them (B, h, w, C) -> uint8, rounded, or cut off where the plan says."""
    levels = x * 255 if plan.likelihood == "bernoulli" else x * 127.5 + 127.5
    levels = jnp.clip(levels, 0, 255)
    return (jnp.floor(levels) if plan.truncates else jnp.round(levels)).astype(jnp.uint8)


def to_range(images: Array, pixel_range: str, dtype: DTypeLike = jnp.float32) -> Array:
    """uint8 (B, H, W, C) -> [0, 1] ('unit') or [-1, 1] ('signed')."""
    x = images.astype(dtype)
    return x / 255 if pixel_range == "unit" else x / 127.5 - 1


def from_range(x: Array, pixel_range: str) -> Array:
    """Pictures in [0, 1] or [-1, 1], (B, H, W, C) -> uint8, rounded; what lies outside is clamped."""
    levels = x * 255 if pixel_range == "unit" else x * 127.5 + 127.5
    return jnp.clip(jnp.round(levels), 0, 255).astype(jnp.uint8)
