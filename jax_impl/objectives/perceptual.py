"""The perceptual loss of tokenizers: the mean distance by frozen networks."""

from collections.abc import Mapping

import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from dioscuri.families.vqgan.options import Loss
from dioscuri.families.vqgan.perceptual import shares, tensors_of
from jax_impl.models.imagenet_classifiers import CLASSIFIERS, logit_distance
from jax_impl.models.lpips import lpips
from jax_impl.objectives.vqgan import Distance

Arrays = Mapping[str, Array]


def mean_distance(loss: Loss, frozen: Arrays, dtype: DTypeLike | None, *, unit: bool) -> Distance | None:
    """A function of pictures and reconstructions, (B, H, W, C) in [0, 1] if `unit` and else in [-1, 1], that
    gives distances (B,); None if `loss` names no network. `frozen` are the networks' weights."""
    used = shares(loss)
    if not used:
        return None
    weights = {name: tensors_of(name, frozen) for name in used}

    def one(name: str, x: Array, made: Array) -> Array:
        if name == "lpips":
            x, made = (2 * x - 1, 2 * made - 1) if unit else (x, made)
            return lpips(x, made, weights[name], dtype)
        x, made = (x, made) if unit else ((x + 1) / 2, (made + 1) / 2)
        return logit_distance(CLASSIFIERS[name], x, made, weights[name], dtype)

    def distance(x: Array, made: Array) -> Array:
        distances = [share * one(name, x, made) for name, share in used.items()]
        return jnp.stack(distances).sum(0)

    return distance
