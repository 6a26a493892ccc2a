"""ConvNeXt (Liu et al. 2022) and ResNet (He et al. 2016) with torchvision's weights, and the distance of
pictures by their logits (Weber et al. 2024, section 3.1; Yu et al. 2024).

Networks are functions of frozen weights, under torchvision's names, as a loss has no modules.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from einops import rearrange
from jax import Array, lax
from jax.typing import DTypeLike

from dioscuri.families.vqgan.imagenet_classifiers import DEVIATION, MEAN, SIDE
from jax_impl.layers.precision import at_least_float32

Arrays = Mapping[str, Array]
Network = Callable[[Array, Arrays], Array]

LAYER_EPSILON, BATCH_EPSILON = 1e-6, 1e-5


def logit_distance(
    network: Network, first: Array, second: Array, weights: Arrays, dtype: DTypeLike | None = None
) -> Array:
    """Mean squared difference (B,) of the logits of pictures in [0, 1], (B, H, W, 3) or (B, H, W, 1).

    The network computes in `dtype`.
    """
    x = jnp.concatenate([first, second])
    x = jax.image.resize(x, (len(x), SIDE, SIDE, x.shape[-1]), "bilinear", antialias=True)
    mean, deviation = (jnp.asarray(values, x.dtype)[None, None, None] for values in (MEAN, DEVIATION))
    x = (x - mean) / deviation
    y = at_least_float32(network(x if dtype is None else x.astype(dtype), weights))
    return jnp.square(y[: len(first)] - y[len(first) :]).mean(1)


def convnext(x: Array, weights: Arrays) -> Array:
    """Normalised pictures (B, H, W, 3) -> logits (B, K)."""
    x = _convolve(x, weights, "features.0.0", stride=4)
    x = _channel_norm(x, weights, "features.0.1")
    stage = 1
    while f"features.{stage}.0.layer_scale" in weights:
        block = 0
        while (name := f"features.{stage}.{block}") + ".layer_scale" in weights:
            x = x + _convnext_block(x, weights, name)
            block += 1
        if f"features.{stage + 1}.0.weight" in weights:
            x = _channel_norm(x, weights, f"features.{stage + 1}.0")
            x = _convolve(x, weights, f"features.{stage + 1}.1", stride=2)
        stage += 2
    x = _channel_norm(x.mean((1, 2), keepdims=True), weights, "classifier.0")
    return _dense(rearrange(x, "b 1 1 c -> b c"), weights, "classifier.2")


def resnet(x: Array, weights: Arrays) -> Array:
    """Normalised pictures (B, H, W, 3) -> logits (B, K)."""
    x = jax.nn.relu(_batch_norm(_convolve(x, weights, "conv1", stride=2, padding=3), weights, "bn1"))
    padding = ((0, 0), (1, 1), (1, 1), (0, 0))
    x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), padding)
    stage = 1
    while f"layer{stage}.0.conv1.weight" in weights:
        block = 0
        while (name := f"layer{stage}.{block}") + ".conv1.weight" in weights:
            x = _bottleneck(x, weights, name, stride=2 if stage > 1 and block == 0 else 1)
            block += 1
        stage += 1
    return _dense(x.mean((1, 2)), weights, "fc")


def _convnext_block(x: Array, weights: Arrays, name: str) -> Array:
    y = _convolve(x, weights, f"{name}.block.0", padding=3, groups=x.shape[-1])
    y = _channel_norm(y, weights, f"{name}.block.2")
    y = jax.nn.gelu(_dense(y, weights, f"{name}.block.3"), approximate=False)
    y = _dense(y, weights, f"{name}.block.5")
    return y * _like(x, weights, f"{name}.layer_scale", "c 1 1 -> 1 1 1 c")


def _bottleneck(x: Array, weights: Arrays, name: str, stride: int) -> Array:
    y = x
    for number, (step, padding) in enumerate(((1, 0), (stride, 1), (1, 0)), 1):
        y = _convolve(y, weights, f"{name}.conv{number}", stride=step, padding=padding)
        y = _batch_norm(y, weights, f"{name}.bn{number}")
        y = jax.nn.relu(y) if number < 3 else y
    if f"{name}.downsample.0.weight" in weights:
        x = _convolve(x, weights, f"{name}.downsample.0", stride=stride)
        x = _batch_norm(x, weights, f"{name}.downsample.1")
    return jax.nn.relu(x + y)


def _convolve(
    x: Array, weights: Arrays, name: str, stride: int = 1, padding: int = 0, groups: int = 1
) -> Array:
    y = lax.conv_general_dilated(
        x,
        _like(x, weights, f"{name}.weight"),
        (stride, stride),
        ((padding, padding),) * 2,
        dimension_numbers=("NHWC", "OIHW", "NHWC"),
        feature_group_count=groups,
    )
    bias = f"{name}.bias"
    return y + _like(x, weights, bias, "c -> 1 1 1 c") if bias in weights else y


def _dense(x: Array, weights: Arrays, name: str) -> Array:
    y = x @ _like(x, weights, f"{name}.weight", "o i -> i o")
    return y + jnp.broadcast_to(_like(x, weights, f"{name}.bias"), y.shape)


def _channel_norm(x: Array, weights: Arrays, name: str) -> Array:
    scale, bias = (_like(x, weights, f"{name}.{leaf}", "c -> 1 1 1 c") for leaf in ("weight", "bias"))
    # jax.nn.standardize takes the variance as mean(x^2) - mean(x)^2, which loses digits.
    y = at_least_float32(x)
    y = y - y.mean(-1, keepdims=True)
    y = y * lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + LAYER_EPSILON)
    return y.astype(x.dtype) * scale + bias


def _batch_norm(x: Array, weights: Arrays, name: str) -> Array:
    mean, variance, scale, bias = (
        _like(x, weights, f"{name}.{leaf}", "c -> 1 1 1 c")
        for leaf in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) * (scale * lax.rsqrt(variance + BATCH_EPSILON)) + bias


def _like(x: Array, weights: Arrays, name: str, shape: str = "") -> Array:
    weight = weights[name].astype(x.dtype)
    return rearrange(weight, shape) if shape else weight


CLASSIFIERS: dict[str, Network] = {"convnext": convnext, "resnet": resnet}
"""Name in the options -> network."""
