"""LPIPS (Zhang et al. 2018, equation 1): distance of pictures by weighted features of VGG16."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from einops import rearrange
from jax import Array, lax
from jax.typing import DTypeLike

from dioscuri.families.vqgan.lpips import BLOCKS, SCALE, SHIFT
from jax_impl.layers.precision import at_least_float32

EPSILON = 1e-10
"""Added to the features' norm."""


def lpips(first: Array, second: Array, weights: Mapping[str, Array], dtype: DTypeLike | None = None) -> Array:
    """Pictures in [-1, 1], (B, H, W, 3) or (B, H, W, 1) -> distances (B,).

    `weights` are those of `dioscuri.families.vqgan.lpips.weight_shapes`; the network computes in `dtype`.
    """
    B = len(first)
    distance = jnp.zeros(B)
    both = _features(jnp.concatenate([first, second]), weights, dtype)
    for block, features in enumerate(both):
        y = at_least_float32(features)
        y = y / (_norm(y) + EPSILON)
        factors = rearrange(weights[f"lin{block}.weight"], "c -> 1 1 1 c")
        distance = distance + (factors * jnp.square(y[:B] - y[B:])).sum(3).mean((1, 2))
    return distance


def _norm(y: Array) -> Array:
    """Norm of a pixel's features, with gradient 0 where they are all 0."""
    squares = jnp.sum(jnp.square(y), 3, keepdims=True)
    return jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1)), 0)


def _features(x: Array, weights: Mapping[str, Array], dtype: DTypeLike | None) -> list[Array]:
    """Activations (B, h, w, C) after the last ReLU of every block."""
    shift, scale = (rearrange(jnp.asarray(values, x.dtype), "c -> 1 1 1 c") for values in (SHIFT, SCALE))
    y = (x - shift) / scale
    y = y if dtype is None else y.astype(dtype)
    features: list[Array] = []
    for block, convolutions in enumerate(BLOCKS):
        y = lax.reduce_window(y, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID") if block else y
        for index in convolutions:
            kernel, bias = (
                weights[f"features.{index}.{leaf}"].astype(y.dtype) for leaf in ("weight", "bias")
            )
            y = lax.conv_general_dilated(
                y, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "OIHW", "NHWC")
            )
            y = jax.nn.relu(y + rearrange(bias, "o -> 1 1 1 o"))
        features.append(y)
    return features
