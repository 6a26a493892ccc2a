"""Step-unrolled denoising (Savinov et al. 2022, section 2.2): losses in nats, in at least float32."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient

from dioscuri.families.sundae.denoising_options import Unrolling
from jax_impl.layers.precision import at_least_float32
from jax_impl.objectives.masked_tokens import cross_entropy
from jax_impl.samplers.choice import draw_tokens, inverse_cdf_sample
from jax_impl.samplers.noise import gumbel


class Terms(NamedTuple):
    """Terms of one pass: per picture (B,), mean cross-entropy and accuracy; `tokens` (B, L), the clean ones;
    and `unrolled` (B, L), the next pass's input."""

    loss: Array
    accuracy: Array
    tokens: Array
    unrolled: Array


def corrupt(tokens: Array, share: Array, uniform: Array, replacement: Array, codebook_size: int) -> Array:
    """Tokens (B, L) with random ones where `uniform` (B, L) is below `share` (B, 1).

    `replacement` (B, L), uniform on [0, 1), determines them; a replacement may equal the token.
    """
    chosen = jnp.minimum((replacement * codebook_size).astype(jnp.int32), codebook_size - 1)
    return jnp.where(uniform < share, chosen, tokens)


def pass_terms(logits: Array, tokens: Array, uniform: Array | None) -> Terms:
    """Terms of logits (B, L, K) for clean tokens (B, L). `uniform` samples the next input, (B, L) by the
    inverse CDF, (B, L, K) as Gumbel noise."""
    logits = at_least_float32(logits)
    losses, hits = cross_entropy(logits, tokens), logits.argmax(-1) == tokens
    return Terms(
        losses.mean(1),
        hits.astype(losses.dtype).mean(1),
        tokens,
        _next_input(stop_gradient(logits), tokens, uniform),
    )


def unrolled_loss(terms: Terms, options: Unrolling, k: int) -> tuple[Array, dict[str, Array]]:
    """Pass k's contribution to the loss (0-d) and to the metrics, which are sums over all passes."""
    loss, place = terms.loss.mean(), jnp.arange(options.unroll_steps) == k
    weighted = options.weights[k] * loss
    accuracy = terms.accuracy.mean() / options.unroll_steps
    return weighted, {"loss": weighted, "accuracy": accuracy, "unrolled": loss * place}


def _next_input(logits: Array, tokens: Array, uniform: Array | None) -> Array:
    """The next pass's input; after the last pass, the clean tokens."""
    if uniform is None:
        return tokens
    if uniform.ndim == tokens.ndim:
        return inverse_cdf_sample(logits, uniform)
    return draw_tokens(logits, gumbel(uniform))
