"""The Inception network of FID (see `dioscuri/metrics/inception.py`), with weights as an argument."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from dioscuri.metrics.inception import Conv, Fork, Layer, Pool, layers, resizing
from jax_impl.layers.dense import broadcast

Arrays = Mapping[str, Array]
_WINDOW = (1, 3, 3, 1)


def inception(pictures: Array, weights: Arrays) -> tuple[Array, Array]:
    """Pictures uint8 (B, H, W, 3) -> features (B, 2048), and logits (B, 1008) without their bias."""
    return features(resized(pictures, weights["fc.weight"].dtype), weights)


def resized(pictures: Array, dtype: jnp.dtype) -> Array:
    """Pictures uint8 (B, H, W, 3) -> the network's input (B, 299, 299, 3), -1 ... 1."""
    _, H, W, _ = pictures.shape
    rows, columns = (jnp.asarray(resizing(side), dtype) for side in (H, W))
    return (jnp.einsum("ih,jw,bhwc->bijc", rows, columns, pictures.astype(dtype)) - 128) / 128


def features(x: Array, weights: Arrays) -> tuple[Array, Array]:
    """The network's input -> features (B, 2048), and logits (B, 1008) without their bias."""
    pooled = _through(x, layers(), weights).mean((1, 2))
    return pooled, pooled @ weights["fc.weight"].T


def _through(x: Array, layer: Layer, weights: Arrays) -> Array:
    """x (B, H, W, I) -> (B, H', W', O)."""
    if isinstance(layer, Conv):
        kernel, bias = weights[f"{layer.name}.weight"], weights[f"{layer.name}.bias"]
        padding = [(side, side) for side in layer.padding]
        strides = (layer.stride, layer.stride)
        y = lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=("NHWC", "OIHW", "NHWC"))
        return jax.nn.relu(y + broadcast(bias, y))
    if isinstance(layer, Pool):
        return _pooled(x, layer)
    if isinstance(layer, Fork):
        return jnp.concatenate([_through(x, branch, weights) for branch in layer.branches], -1)
    for inner in layer:
        x = _through(x, inner, weights)
    return x


def _pooled(x: Array, pool: Pool) -> Array:
    sides = ((0, 0), *((int(pool.stride == 1),) * 2,) * 2, (0, 0))
    strides = (1, pool.stride, pool.stride, 1)
    if pool.kind == "max":
        return lax.reduce_window(x, -jnp.inf, lax.max, _WINDOW, strides, sides)
    total = lax.reduce_window(x, jnp.zeros((), x.dtype), lax.add, _WINDOW, strides, sides)
    rows, columns = (np.convolve(np.ones(side), np.ones(3), "same") for side in x.shape[1:3])
    return total / jnp.asarray(np.outer(rows, columns)[None, :, :, None], x.dtype)
