"""Sampling by scores: every step remasks tokens that are unlikely, or that a critic finds wrong
(muse-maskgit-pytorch and open-muse's `generate`; token critic: Lezama et al. 2022, algorithm 2)."""

import jax.numpy as jnp
from jax import Array

from jax_impl.samplers.decoder import Decoder, Sampled, State, run_steps

KNOWN_SCORE = -1e5
LEAST_TEMPERATURE = 1e-10


def scores_sample(decoder: Decoder, start: Array, embedding: Array | None = None) -> Sampled:
    """Sample from `start` (B, L): every step masks the tokens with the highest scores and samples them."""
    options, steps, known = decoder.options, decoder.steps, start != decoder.mask_id
    counts = steps.masked[:, jnp.sum(~known, 1)]  # (T, B)

    def step(k: Array, state: State) -> tuple[State, Array, Array]:
        ids, scores, embedding = state
        masking = highest(jnp.where(known, -jnp.inf, scores), counts[k]) & ~known
        got = jnp.where(masking, decoder.mask_id, ids)
        temperature = jnp.clip(steps.temperature[k], min=LEAST_TEMPERATURE)
        unknown = got == decoder.mask_id
        drawn, log_p, noise, embedding = decoder.predict(
            got, unknown, k, embedding, temperature=temperature, resample=options.legacy_scores
        )
        ids = jnp.where(unknown, drawn, got)
        if decoder.predictor.critic is not None:
            scores = decoder.critic_scores(ids, steps.guidance[k])
            scores = scores + (noise["critic"] - 0.5) * steps.critic_noise[k]
        else:
            scores = 1 - jnp.exp(log_p)
            if not options.legacy_scores and options.remask != "confidence":
                scores = jnp.where(unknown, scores, KNOWN_SCORE)
        return (ids, scores.astype(jnp.result_type(float)), embedding), got, ids

    scores = jnp.zeros(start.shape, jnp.result_type(float))
    state = (start, scores, embedding)
    return run_steps(step, state, options.start_step, options.steps)[1]


def highest(scores: Array, counts: Array) -> Array:
    """Mask (B, L) of the `counts` (B,) highest scores."""
    order = jnp.argsort(scores, axis=1, descending=True, stable=True)
    return jnp.argsort(order, axis=1) < counts[:, None]
