"""SUNDAE's samplers (Savinov et al. 2022, section 3): they start from random tokens and resample them
until a step changes nothing."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from dioscuri.families.sundae.denoising_options import Resampling
from dioscuri.families.sundae.training import SamplingSchedule
from jax_impl.layers.precision import at_least_float32
from jax_impl.samplers.choice import draw_tokens, filtered, inverse_cdf_sample
from jax_impl.samplers.noise import StepNoise
from jax_impl.samplers.scores import LEAST_TEMPERATURE, highest

Denoise = Callable[[Array], Array]
"""ids (B, L) -> logits (B, L, K)."""


class Resampled(NamedTuple):
    """`tokens` (B, L); `steps` (T, B, L), the tokens after every step, where without `every_step` T is 0; and
    `taken` (B,), the number of steps after which a picture was finished."""

    tokens: Array
    steps: Array
    taken: Array


def resample_tokens(
    network: Denoise,
    start: Array,
    draw: StepNoise,
    steps: SamplingSchedule,
    options: Resampling,
    known: Array | None = None,
    *,
    every_step: bool = False,
) -> Resampled:
    """Resample tokens, from `start` (B, L) on, except those that are `known` (B, L).

    `steps` comes from `make_sampling_schedule`; `draw(k)` returns the noise of a step, whose uniform `tokens`
    (B, L) may be replaced by Gumbel noise (B, L, K). A finished picture does not change; the loop ends when
    all are finished, and the remaining steps of `every_step` repeat the last one.
    """
    steps, (B, L), T = SamplingSchedule(*map(jnp.asarray, steps)), start.shape, options.steps
    known = jnp.zeros(start.shape, bool) if known is None else known
    least = options.min_steps if options.early_stop else T
    propose = argmax_unrolled_step if options.sampler == "argmax_unrolled" else ancestral_step
    recorded = T if every_step else 0

    def is_running(state: tuple[Array, ...]) -> Array:
        k, _, stopped, _, _ = state
        return (k < T) & ~stopped.all()

    def step(state: Any) -> Any:
        k, tokens, stopped, history, taken = state
        taken = taken + ~stopped
        proposal, full = propose(network, tokens, known, draw, steps, options, k)
        same = (full if options.stop_rule == "unmasked" else proposal) == tokens
        stopped = stopped | ((same | known).all(1) & (k >= least))
        tokens = jnp.where(stopped[:, None], tokens, proposal)
        # What is not reached later stays as it is now.
        history = jnp.where((jnp.arange(recorded) >= k)[:, None, None], tokens[None], history)
        return k + 1, tokens, stopped, history, taken

    tokens = start.astype(jnp.int32)
    history, taken = jnp.zeros((recorded, B, L), jnp.int32), jnp.zeros(B, jnp.int32)
    state = (jnp.zeros((), jnp.int32), tokens, jnp.zeros(B, bool), history, taken)
    _, tokens, _, history, taken = jax.lax.while_loop(is_running, step, state)
    return Resampled(tokens, history, taken)


def ancestral_step(
    network: Denoise,
    tokens: Array,
    known: Array,
    draw: StepNoise,
    steps: SamplingSchedule,
    options: Resampling,
    k: Array,
) -> tuple[Array, Array]:
    """Tokens with a random fraction resampled, and with all of them resampled, both (B, L)."""
    logits, noise = at_least_float32(network(tokens)), draw(k)
    temperature = jnp.maximum(steps.temperature[k], LEAST_TEMPERATURE)
    by = inverse_cdf_sample if noise["tokens"].ndim == tokens.ndim else draw_tokens
    allowed = filtered(logits, options, k, steps.top_p)
    # The largest becomes 0 before the division, not in softmax alone: XLA on a CPU may contract the two into
    # one operation with another rounding, whose error at temperature 0 is beyond the range of exp.
    full = by((allowed - allowed.max(-1, keepdims=True)) / temperature, noise["tokens"])
    unchanged = (noise["update"] > steps.proportion[k]) | known
    return jnp.where(unchanged, tokens, full), full


def argmax_unrolled_step(
    network: Denoise,
    tokens: Array,
    known: Array,
    draw: StepNoise,
    steps: SamplingSchedule,
    options: Resampling,
    k: Array,
) -> tuple[Array, Array]:
    """Argmax-unrolled decoding: the most likely tokens, of which the least certain are predicted a second
    time; returned twice, (B, L)."""
    del draw, options
    logits = jax.nn.log_softmax(at_least_float32(network(tokens)), -1)
    sure, first = logits.max(-1), logits.argmax(-1).astype(jnp.int32)
    first = jnp.where(known, tokens, first)
    again = network(first).argmax(-1).astype(jnp.int32)
    uncertainty = jnp.where(known, -jnp.inf, -sure)
    count = jnp.round(steps.proportion[k] * (~known).sum(1))
    uncertain = highest(uncertainty, count) & ~known
    proposal = jnp.where(uncertain, again, first)
    return proposal, proposal
