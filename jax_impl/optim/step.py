"""One optimiser step on flat vectors, without synchronisation: norm -> clip -> skip -> update -> average.

Vectors are (P,), or (shards, P) if devices share them; both are updated value by value.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from dioscuri.hparams.sections import Optimizer
from jax_impl.optim.optimizers import RULES, Moments, Rule


class OptimizerState(NamedTuple):
    """Vectors (P,) of parameters, moments and averaged parameters; 0-d int32 counters of updates."""

    params: Array
    first: Array
    second: Array
    ema: Array
    updates: Array
    skips: Array
    skips_in_row: Array
    longest_row: Array

    @staticmethod
    def start(params: Array) -> "OptimizerState":
        """The state before the first update; the average is initially a copy."""
        counters = [jnp.zeros((), jnp.int32) for _ in range(4)]
        return OptimizerState(
            params, jnp.zeros_like(params), jnp.zeros_like(params), params.copy(), *counters
        )


@dataclass(frozen=True)
class Settings:
    """Constants of the step: the rule, its options, and the number of decayed values, which come first."""

    rule: Rule
    optimizer: Optimizer
    weight_decay: float
    n_decayed: int

    @staticmethod
    def make(optimizer: Optimizer, weight_decay: float, n_decayed: int) -> "Settings":
        """Look the rule up by `optimizer.type`."""
        return Settings(RULES[optimizer.type], optimizer, weight_decay, n_decayed)


def optimizer_step(
    state: OptimizerState, grad: Array, learning_rate: Array, ema_rate: Array, settings: Settings
) -> tuple[OptimizerState, Array]:
    """Return the state after one update and the global gradient norm before clipping (0-d).

    The average moves towards the new parameters by the fraction `ema_rate`, 1 - decay.

    If the norm is not finite or, with `gradient_skip`, reaches `gradient_skip_threshold`, nothing but the
    count of skips changes. Weight decay is decoupled: learning_rate * weight_decay * p is also subtracted
    from decayed parameters.
    """
    optimizer = settings.optimizer
    norm = optax.tree.norm(grad)
    applied = jnp.isfinite(norm)
    if optimizer.gradient_skip:
        applied = applied & (norm < optimizer.gradient_skip_threshold)
    scale = jnp.ones_like(norm)
    if optimizer.clip_gradient_norm:
        scale = optimizer.gradient_clip_norm_value / jnp.maximum(norm, optimizer.gradient_clip_norm_value)
    state = _count(state, applied)
    return _update(state, grad, (scale, applied, learning_rate, ema_rate), settings), norm


def masked_step(
    state: OptimizerState,
    grad: Array,
    learning_rate: Array,
    ema_rate: Array,
    settings: Settings,
    mask: Array,
    *,
    last: bool,
) -> tuple[OptimizerState, Array]:
    """`optimizer_step` on the parameters under a mask (P,). Of several in a training step, only the `last`
    counts as an update."""
    new, norm = optimizer_step(state, grad, learning_rate, ema_rate, settings)
    vectors = {
        name: jnp.where(mask, getattr(new, name), getattr(state, name))
        for name in ("params", "first", "second", "ema")
    }
    return new._replace(**vectors, updates=new.updates if last else state.updates), norm


def _update(
    state: OptimizerState, grad: Array, scalars: tuple[Array, Array, Array, Array], settings: Settings
) -> OptimizerState:
    """The rule's update; if it is applied, `state` already counts it."""
    scale, applied, learning_rate, ema_rate = scalars
    options = settings.optimizer
    rule = settings.rule.update(options.beta1, options.beta2, options.epsilon)
    moments = Moments(jnp.maximum(state.updates - 1, 0), state.first, state.second)
    # A skipped gradient may not be finite.
    direction, moments = rule.update(jnp.where(applied, grad * scale, 0.0), moments, state.params)
    if settings.weight_decay:
        # Not by `optax.add_decayed_weights`, whose mask selects whole leaves: here there is only one vector.
        decayed = jax.lax.broadcasted_iota(jnp.int32, grad.shape, grad.ndim - 1) < settings.n_decayed
        decay = jnp.where(decayed, settings.weight_decay, 0.0)
        direction = direction + decay.astype(grad.dtype) * state.params
    # Not `optax.apply_if_finite`, which has no threshold and ignores the average: a skipped step has rates of
    # 0 and keeps the moments.
    learning_rate, ema_rate = (jnp.where(applied, rate, 0.0) for rate in (learning_rate, ema_rate))
    params = optax.apply_updates(state.params, -learning_rate * direction)
    # Not by `optax.incremental_update`: the rounding of its factor 1 - rate accumulates over the steps.
    ema = state.ema + ema_rate * (params - state.ema)
    first = jnp.where(applied, moments.first, state.first)
    second = jnp.where(applied, moments.second, state.second)
    return state._replace(params=params, ema=ema, first=first, second=second)


def _count(state: OptimizerState, applied: Array) -> OptimizerState:
    """Counters; `updates` is afterwards the number of this update, if it is applied."""
    skipped = (~applied).astype(jnp.int32)
    skips_in_row = (state.skips_in_row + 1) * skipped
    return state._replace(
        updates=state.updates + 1 - skipped,
        skips=state.skips + skipped,
        skips_in_row=skips_in_row,
        longest_row=jnp.maximum(state.longest_row, skips_in_row),
    )
