"""Samplers of Halton-MaskGIT (Besnier et al. 2025): tokens in a fixed order, and the confidence sampler with
which the paper compares it."""

from math import isqrt

import jax.numpy as jnp
from jax import Array

from dioscuri.families.maskgit.halton import halton_order
from jax_impl.samplers.decoder import Decoder, Sampled, State, run_steps


def halton_sample(
    decoder: Decoder,
    start: Array,
    embedding: Array | None = None,
    offsets: Array | None = None,
) -> Sampled:
    """Sample from `start` (B, L): every step writes the next unknown positions of the Halton order,
    until all are written.

    `offsets` (B,): offsets by which each picture's order is rolled.
    """
    options, steps, unknown = decoder.options, decoder.steps, start == decoder.mask_id
    number = unknown.sum(1)
    # (1 + steps, B): number of masked tokens before the first step and after each.
    left = jnp.concatenate([number[None], steps.masked[options.start_step :, number]])
    ranks = ranks_of_unknown(unknown, decoder.predictor.shape, offsets)

    def step(k: Array, state: State) -> tuple[State, Array, Array]:
        ids, embedding = state
        first, last = (number - left[k - options.start_step + i] for i in (0, 1))
        written = unknown & (ranks >= first[:, None]) & (ranks < last[:, None])
        drawn, _, _, embedding = decoder.predict(ids, written, k, embedding, resample=True)
        return (jnp.where(written, drawn, ids), embedding), ids, drawn

    state, sampled = run_steps(
        step, (start, embedding), options.start_step, options.steps, decoder.has_masked
    )
    return sampled._replace(tokens=_codes(state[0], decoder))


def ranks_of_unknown(unknown: Array, shape: tuple[int, ...] = (), offsets: Array | None = None) -> Array:
    """Number of unknown positions before each in the Halton order: (B, L), for pictures whose tokens have
    this shape, or else lie on a square grid."""
    L = unknown.shape[1]
    order = jnp.asarray(halton_order(shape or (isqrt(L),) * 2))
    place = jnp.argsort(order)[None]  # (1, L): rank of each position
    if offsets is not None:
        place = (place + offsets[:, None]) % L
    place = jnp.broadcast_to(place, unknown.shape)
    in_order = jnp.take_along_axis(unknown, jnp.argsort(place, axis=1), axis=1)
    before = jnp.cumsum(in_order, axis=1) - in_order.astype(jnp.int32)
    return jnp.take_along_axis(before, place, axis=1)


def halton_confidence_sample(decoder: Decoder, start: Array, embedding: Array | None = None) -> Sampled:
    """Sample from `start` (B, L): every step writes the most confident positions, known ones first."""
    options, steps, known = decoder.options, decoder.steps, start != decoder.mask_id
    counts = steps.masked[:, jnp.sum(~known, 1)]  # (T, B)

    def step(k: Array, state: State) -> tuple[State, Array, Array]:
        ids, embedding = state
        drawn, log_p, noise, embedding = decoder.predict(ids, ~known, k, embedding, resample=True)
        confidence = log_p + steps.temperature[k] * noise["confidence"]
        confidence = jnp.where(ids == decoder.mask_id, confidence, jnp.inf)
        order = jnp.argsort(confidence, axis=1, stable=True)
        most_confident = jnp.argsort(order, axis=1) >= counts[k][:, None]
        return (jnp.where(most_confident & ~known, drawn, ids), embedding), ids, drawn

    state, sampled = run_steps(step, (start, embedding), options.start_step, options.steps)
    return sampled._replace(tokens=_codes(state[0], decoder))


def _codes(ids: Array | None, decoder: Decoder) -> Array:
    """Ids with sampled mask tokens replaced by the last code."""
    assert ids is not None
    return jnp.clip(ids, max=decoder.predictor.codebook_size - 1)
