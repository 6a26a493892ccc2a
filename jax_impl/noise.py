"""Noise for a model's draws, a pure function of (seed, stream, step)."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from dioscuri.plans.noise import NoiseSpec

STREAMS = {
    "train_step": 0,
    "evaluate": 1,
    "reconstruct": 2,
    "generate": 3,
    "encode": 2,
    "decode": 5,
    "divergence_statistics": 6,
    "inpaint": 7,
    "output_statistics": 8,
}
"""Random stream of each method of the engine: `encode` and `reconstruct` share one."""


def draw_noise(specs: Sequence[NoiseSpec], key: tuple[int, int, int], dtype: jnp.dtype) -> dict[str, Array]:
    """Draw the arrays (B, ...), all normals in one call and all uniforms in another.

    The values do not depend on how the arrays are sharded over devices, so no process index is needed.
    """
    seed, stream, step = key
    root = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), stream), step)
    return draw_from(specs, root, dtype)


def draw_from(specs: Sequence[NoiseSpec], root: Array, dtype: jnp.dtype) -> dict[str, Array]:
    """Draw the arrays from a JAX key."""
    generators = [spec.name for spec in specs if spec.kind == "generator"]
    noise = {name: jax.random.fold_in(root, 2 + index) for index, name in enumerate(generators)}
    for index, kind in enumerate(("normal", "uniform")):
        chosen = [spec for spec in specs if spec.kind == kind]
        if not chosen:
            continue
        batch, widths = chosen[0].shape[0], [int(np.prod(spec.shape[1:])) for spec in chosen]
        sample = jax.random.normal if kind == "normal" else jax.random.uniform
        values = sample(jax.random.fold_in(root, index), (batch, sum(widths)), dtype)
        for spec, array in zip(chosen, jnp.split(values, np.cumsum(widths)[:-1], axis=1), strict=True):
            array = array if kind == "normal" else spec.low + (spec.high - spec.low) * array
            noise[spec.name] = array.reshape(spec.shape)
    return noise
