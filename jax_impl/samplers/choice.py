"""Sampling a token at every position: filters of logits, guidance, Gumbel's maximum, inverse transform."""

import jax
import jax.numpy as jnp
from jax import Array

from dioscuri.families.token_models.masking_options import Filters

BLOCK = 32
"""Tokens whose probabilities are summed up first: cumulative sums run over blocks, then inside one."""


def keep_top_k(logits: Array, k: int) -> Array:
    """Logits (..., K) with -inf below the k largest; equal ones stay together. 0 keeps all."""
    if not 0 < k < logits.shape[-1]:
        return logits
    least = jax.lax.top_k(logits, k)[0][..., -1:]
    return jnp.where(logits >= least, logits, -jnp.inf)


_HALVINGS = 32
"""Of the interval in which the least share that is kept is looked for: further than float32 tells apart."""


def keep_top_p(logits: Array, p: float) -> Array:
    """Logits (..., K) with -inf where the likelier ones make up a share p already (nucleus sampling, Holtzman
    et al. 2020). 1 keeps all. The least share is found by bisection, much faster than XLA sorts on a CPU."""
    if p >= 1:
        return logits
    shares = jax.nn.softmax(logits, axis=-1)

    def halve(_: Array, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = (low + high) / 2
        enough = jnp.where(shares > middle, shares, 0).sum(-1, keepdims=True) >= p
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

    most = shares.max(-1, keepdims=True)
    low, _ = jax.lax.fori_loop(0, _HALVINGS, halve, (jnp.full_like(most, -1), most))
    return jnp.where(shares > low, logits, -jnp.inf)


def filtered(logits: Array, options: Filters) -> Array:
    """Both filters."""
    return keep_top_p(keep_top_k(logits, options.top_k), options.top_p)


def draw_tokens(logits: Array, gumbel: Array) -> Array:
    """One token (...) for logits and standard Gumbel noise (..., K)."""
    return jnp.argmax(logits + gumbel, axis=-1).astype(jnp.int32)


def inverse_cdf_sample(logits: Array, uniform: Array) -> Array:
    """One token (...) for logits (..., K) and uniforms (...) on [0, 1): the first whose cumulative
    probability is above the uniform (inverse transform)."""
    shares = jax.nn.softmax(logits, axis=-1)
    padding = [(0, 0)] * (shares.ndim - 1) + [(0, -shares.shape[-1] % BLOCK)]
    shares = jnp.pad(shares, padding).reshape(*shares.shape[:-1], -1, BLOCK)
    sums = shares.sum(-1)
    block, rest = _first_above(sums, uniform * sums.sum(-1))
    inside = jnp.take_along_axis(shares, block[..., None, None], -2)[..., 0, :]
    return block * BLOCK + _first_above(inside, rest)[0]


def log_probability(logits: Array, tokens: Array) -> Array:
    """log softmax(logits) (..., K) at the tokens (...)."""
    chosen = jnp.take_along_axis(logits, tokens[..., None], axis=-1)[..., 0]
    return chosen - jax.nn.logsumexp(logits, axis=-1)


def guide(both: Array, factor: Array) -> Array:
    """without + factor (with - without), of a batch that holds the predictions with the condition, then those
    without it (classifier-free guidance, Ho and Salimans 2022)."""
    given, null = jnp.split(both, 2)
    return null + factor * (given - null)


def _first_above(shares: Array, target: Array) -> tuple[Array, Array]:
    """Where cumulative sums of `shares` (..., N) first get above `target` (...), at the last share that is
    not 0 if rounding keeps them below, and the target less the shares before."""
    cumulative = jnp.cumsum(shares, -1)
    ends = jnp.where(shares > 0, cumulative, -1)
    reached = (ends > target[..., None]) | (ends == ends.max(-1, keepdims=True))
    index = reached.argmax(-1).astype(jnp.int32)
    before = jnp.take_along_axis(cumulative - shares, index[..., None], -1)[..., 0]
    return index, target - before
