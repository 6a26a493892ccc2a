"""Confidence sampling: MaskGIT's decoding (Chang et al. 2022, section 3.2), as in Google's and open-muse's
programs; with the sampler 'logits' as in TiTok's (Yu et al. 2024), in which a token's confidence is its
logit, and the temperature also scales the noise of the tokens."""

from collections.abc import Mapping
from math import log

import jax.numpy as jnp
from jax import Array

from dioscuri.families.token_models.masking_options import Sampling
from jax_impl.samplers.decoder import Decoder, Sampled, State, run_steps
from jax_impl.samplers.scores import LEAST_TEMPERATURE

LEAST_LOG_P = log(1e-20)
LEGACY_KNOWN = log(3.4028234663852886e38)
REMASKED = -1e4
"""Confidence of tokens that are remasked at random: below all others."""


def confidence_sample(decoder: Decoder, start: Array, embedding: Array | None = None) -> Sampled:
    """Sample from `start` (B, L): every step samples all unknown tokens and remasks the least confident."""
    options, steps, known = decoder.options, decoder.steps, start != decoder.mask_id
    by_logits = options.sampler == "logits"
    if options.legacy_mask_share:
        counts = shared_counts(steps.ratio, ~known)
    else:
        counts = steps.masked[:, jnp.sum(~known, 1)]  # (T, B)

    def step(k: Array, state: State) -> tuple[State, Array, Array]:
        ids, embedding = state
        unknown = ids == decoder.mask_id
        temperature = jnp.clip(steps.temperature[k], min=LEAST_TEMPERATURE) if by_logits else None
        drawn, score, noise, embedding = decoder.predict(ids, unknown, k, embedding, temperature=temperature)
        confidence = score if by_logits else jnp.clip(score, min=LEAST_LOG_P)
        choice = steps.temperature[k] * noise.get("confidence", jnp.zeros_like(confidence))
        confidence = _of_known(confidence + choice, choice, unknown, known, options)
        confidence = _remasked(confidence, unknown | known, noise, steps.remask[k], options)
        fewer = counts[k] if options.remasks_at_random else jnp.minimum(unknown.sum(1) - 1, counts[k])
        masking = least_confident(confidence, fewer)
        if options.legacy_exhausted:
            masking = masking | (unknown.sum(1, keepdims=True) == 1)
        return (jnp.where(masking, decoder.mask_id, drawn), embedding), ids, drawn

    return run_steps(step, (start, embedding), options.start_step, options.steps)[1]


def shared_counts(ratio: Array, masked: Array) -> Array:
    """Numbers (T, B) of tokens to mask after each step, from the schedule (T,) and the share of `masked`
    (B, L), the tokens to predict, in the whole batch (`legacy_mask_share`)."""
    share = masked.astype(ratio.dtype).mean()
    n = jnp.floor(masked.shape[1] * (ratio * share)).astype(jnp.int32)
    return jnp.broadcast_to(n[:, None], (len(n), len(masked)))


def least_confident(confidence: Array, counts: Array) -> Array:
    """Mask (B, L) of the `counts` (B,) least confident positions, at least one; fewer in case of ties."""
    ordered = jnp.sort(confidence, axis=1)
    cut = jnp.take_along_axis(ordered, jnp.clip(counts, min=1)[:, None], axis=1)
    return confidence < cut


def _of_known(confidence: Array, choice: Array, unknown: Array, known: Array, options: Sampling) -> Array:
    """Confidence with known tokens as certain, except that sampled ones may be reconsidered."""
    certain = known if options.remask == "confidence" else ~unknown
    return jnp.where(
        certain, LEGACY_KNOWN + choice if options.legacy_known_confidence else jnp.inf, confidence
    )


def _remasked(
    confidence: Array, fixed: Array, noise: Mapping[str, Array], rate: Array, options: Sampling
) -> Array:
    """Confidence with sampled tokens remasked with probability `rate`, before those of the schedule."""
    if not options.remasks_at_random:
        return confidence
    uniform = noise["remask"]
    return jnp.where(~fixed & (uniform < rate), REMASKED + uniform, confidence)
