"""One optimiser step on flat vectors, without a wait: norm -> clip -> skip -> update -> average."""

from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from dioscuri.hparams.sections import Optimizer
from jax_impl.optim.optimizers import RULES, Rule


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
        """State before the first update; the average begins as a copy."""
        counters = [jnp.zeros((), jnp.int32) for _ in range(4)]
        return OptimizerState(
            params, jnp.zeros_like(params), jnp.zeros_like(params), params.copy(), *counters
        )


@dataclass(frozen=True)
class Settings:
    """What the step needs beside the state: the rule, its constants and the decayed part of the vector."""

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

    The average moves by `ema_rate`, 1 - decay, towards the new parameters.

    A norm that is not finite, or (`gradient_skip`) at or above `gradient_skip_threshold`, leaves parameters,
    moments, average and the number of updates as they are and counts as a skip. Weight decay is decoupled:
    the decayed parameters move by learning_rate * weight_decay * p more.
    """
    optimizer = settings.optimizer
    norm = jnp.sqrt(jnp.sum(jnp.square(grad)))
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
    """`optimizer_step` on the parameters of a mask (P,) alone. Of several in a training step, only the
    `last` counts as an update."""
    new, norm = optimizer_step(state, grad, learning_rate, ema_rate, settings)
    kept = {
        name: jnp.where(mask, getattr(new, name), getattr(state, name))
        for name in ("params", "first", "second", "ema")
    }
    return new._replace(**kept, updates=new.updates if last else state.updates), norm


def _update(
    state: OptimizerState, grad: Array, scalars: tuple[Array, Array, Array, Array], settings: Settings
) -> OptimizerState:
    scale, applied, learning_rate, ema_rate = scalars
    optimizer, params = settings.optimizer, state.params
    share = applied.astype(grad.dtype)
    direction, first, second = settings.rule.update(
        jnp.where(applied, grad * scale, 0.0),  # what is skipped may not be finite
        state.first,
        state.second,
        share,
        jnp.maximum(state.updates, 1).astype(grad.dtype),
        optimizer.beta1,
        optimizer.beta2,
        optimizer.epsilon,
    )
    if settings.weight_decay:
        decay = jnp.where(jnp.arange(grad.size) < settings.n_decayed, settings.weight_decay, 0.0)
        direction = direction + decay.astype(grad.dtype) * params
    params = params - learning_rate * share * direction
    ema = state.ema + ema_rate * share * (params - state.ema)
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
