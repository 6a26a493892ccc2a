"""Sampling a token at every position: filters of logits, guidance, Gumbel-max and inverse-CDF sampling."""

import jax
import jax.numpy as jnp
from jax import Array

from dioscuri.families.token_models.masking_options import Filters

BLOCK = 32
"""Block of tokens for cumulative sums, which run over blocks first, then inside one block."""


def keep_top_k(logits: Array, k: int) -> Array:
    """Logits (..., K) with -inf below the k-th largest; ties with it are kept. 0 keeps all."""
    if not 0 < k < logits.shape[-1]:
        return logits
    least = jax.lax.top_k(logits, k)[0][..., -1:]
    return jnp.where(logits >= least, logits, -jnp.inf)


_HALVINGS = 32
"""Bisection steps for the smallest probability to keep: beyond the resolution of float32."""


def keep_top_p(logits: Array, p: float | Array) -> Array:
    """Logits (..., K) with -inf where more likely tokens already have a total probability p (nucleus
    sampling, Holtzman et al. 2020). 1 keeps all. The smallest probability to keep is found by bisection,
    which on a CPU is much faster than XLA's sort."""
    probabilities = jax.nn.softmax(logits, axis=-1)

    def halve(_: Array, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = (low + high) / 2
        enough = jnp.where(probabilities > middle, probabilities, 0).sum(-1, keepdims=True) >= p
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

    most = probabilities.max(-1, keepdims=True)
    low, _ = jax.lax.fori_loop(0, _HALVINGS, halve, (jnp.full_like(most, -1), most))
    return jnp.where((probabilities > low) | jnp.asarray(p >= 1), logits, -jnp.inf)


def filtered(logits: Array, options: Filters, step: Array, top_p: Array) -> Array:
    """Logits after both filters of a step; `top_p` (T,) holds that of all steps."""
    k = options.top_k
    logits = _keep_top_k_of(logits, k, step) if isinstance(k, tuple) else keep_top_k(logits, k)
    return keep_top_p(logits, top_p[step].astype(logits.dtype)) if options.filters_p else logits


def _keep_top_k_of(logits: Array, ks: tuple[int, ...], step: Array) -> Array:
    """`keep_top_k` with the number of a traced step: `top_k` needs a static one, so it takes the largest."""
    k, K = jnp.asarray(ks)[step], logits.shape[-1]
    most = min(max(1, *ks), K)
    largest = jax.lax.top_k(logits, most)[0]
    least = jnp.take(largest, jnp.clip(k, 1, most) - 1, axis=-1)[..., None]
    return jnp.where((logits >= least) | (k == 0) | (k >= K), logits, -jnp.inf)


def draw_tokens(logits: Array, gumbel: Array) -> Array:
    """One token (...) from logits and standard Gumbel noise (..., K)."""
    return jnp.argmax(logits + gumbel, axis=-1).astype(jnp.int32)


def inverse_cdf_sample(logits: Array, uniform: Array) -> Array:
    """One token (...) from logits (..., K) and uniform noise (...) on [0, 1): the first whose cumulative
    probability exceeds the noise."""
    probabilities = jax.nn.softmax(logits, axis=-1)
    padding = [(0, 0)] * (probabilities.ndim - 1) + [(0, -probabilities.shape[-1] % BLOCK)]
    probabilities = jnp.pad(probabilities, padding).reshape(*probabilities.shape[:-1], -1, BLOCK)
    sums = probabilities.sum(-1)
    block, remainder = _first_above(sums, uniform * sums.sum(-1))
    inside = jnp.take_along_axis(probabilities, block[..., None, None], -2)[..., 0, :]
    return block * BLOCK + _first_above(inside, remainder)[0]


def log_probability(logits: Array, tokens: Array) -> Array:
    """log softmax(logits) (..., K) at the tokens (...)."""
    return logit_of(logits, tokens) - jax.nn.logsumexp(logits, axis=-1)


def logit_of(logits: Array, tokens: Array) -> Array:
    """Logits (..., K) at the tokens (...)."""
    return jnp.take_along_axis(logits, tokens[..., None], axis=-1)[..., 0]


def guide(logits: Array, factor: Array) -> Array:
    """unconditional + factor (conditional - unconditional), for a batch of conditional, then unconditional
    predictions (classifier-free guidance, Ho and Salimans 2022)."""
    conditional, unconditional = jnp.split(logits, 2)
    return unconditional + factor * (conditional - unconditional)


def _first_above(probabilities: Array, target: Array) -> tuple[Array, Array]:
    """Index at which cumulative sums of `probabilities` (..., N) first exceed `target` (...), or of the last
    nonzero share if rounding keeps them below; and the target minus the shares before it."""
    cumulative = jnp.cumsum(probabilities, -1)
    ends = jnp.where(probabilities > 0, cumulative, -1)
    reached = (ends > target[..., None]) | (ends == ends.max(-1, keepdims=True))
    index = reached.argmax(-1).astype(jnp.int32)
    before = jnp.take_along_axis(cumulative - probabilities, index[..., None], -1)[..., 0]
    return index, target - before
