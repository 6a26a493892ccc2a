"""Noise of the token samplers, generated step by step, since that of all steps would not fit into memory."""

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from dioscuri.plans.noise import NoiseSpec

StepNoise = Callable[..., Mapping[str, Array]]
"""From a step's number to its noise by name; with positions (B, n), `tokens` (B, n, K) is for these only."""

_SMALLEST = 1e-20


def gumbel(uniform: Array) -> Array:
    """Standard Gumbel noise from uniform noise on [0, 1)."""
    return -jnp.log(jnp.maximum(-jnp.log(jnp.maximum(uniform, _SMALLEST)), _SMALLEST))


def step_noise(source: Array, specs: Sequence[NoiseSpec], dtype: DTypeLike = jnp.float32) -> StepNoise:
    """Noise of `step_noise_specs`, from a key with the step's number folded in."""

    def draw(step: int | Array, positions: Array | None = None) -> dict[str, Array]:
        key, noise = jax.random.fold_in(source, step), {}
        for index, spec in enumerate(specs):
            shape = noise_shape(spec, positions)
            uniform = jax.random.uniform(jax.random.fold_in(key, index), shape, dtype)
            noise[spec.name] = gumbel(uniform) if spec.kind == "gumbel" else uniform
        return noise

    return draw


def recorded_noise(arrays: Mapping[str, Array], specs: Sequence[NoiseSpec]) -> StepNoise:
    """Recorded noise of `step_noise_specs`: arrays (B, T, ...) of all T steps, by name."""

    def draw(step: int | Array, positions: Array | None = None) -> dict[str, Array]:
        noise = {spec.name: arrays[spec.name][:, step] for spec in specs}
        if positions is not None:
            rows = jnp.arange(len(positions))[:, None]
            noise["tokens"] = noise["tokens"][rows, positions]
        return noise

    return draw


def noise_shape(spec: NoiseSpec, positions: Array | None) -> tuple[int, ...]:
    """Shape of an array of a step's noise; with positions (B, n), `tokens` is for these only."""
    if positions is None or spec.name != "tokens":
        return spec.shape
    return (*positions.shape, *spec.shape[2:])


def random_offsets(source: Array, batch: int, n_tokens: int) -> Array:
    """The start of each picture's Halton order: (B,) integers below `n_tokens`."""
    return jax.random.randint(source, (batch,), 0, n_tokens, jnp.int32)


def random_tokens(source: Array, shape: tuple[int, int], codebook_size: int) -> Array:
    """Tokens (B, L), uniformly distributed."""
    return jax.random.randint(source, shape, 0, codebook_size, jnp.int32)


def whole_numbers_below(uniform: Array, n: int) -> Array:
    """Integers below n, uniformly distributed, from uniform noise on [0, 1)."""
    return jnp.minimum((uniform * n).astype(jnp.int32), n - 1)
