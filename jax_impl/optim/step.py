"""One optimiser step on flat vectors, without a wait: norm -> clip -> skip -> update -> average."""

from dataclasses import dataclass
from typing import NamedTuple

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
    """`optimizer_step` on the parameters of a mask (P,) alone. Of several in a training step, only the
    `last` counts as an update."""
    new, norm = optimizer_step(state, grad, learning_rate, ema_rate, settings)
    vectors = {
        name: jnp.where(mask, getattr(new, name), getattr(state, name))
        for name in ("params", "first", "second", "ema")
    }
    return new._replace(**vectors, updates=new.updates if last else state.updates), norm


def _update(
    state: OptimizerState, grad: Array, scalars: tuple[Array, Array, Array, Array], settings: Settings
) -> OptimizerState:
    """The update by the rule; `state` has its number already, if it is applied."""
    scale, applied, learning_rate, ema_rate = scalars
    options = settings.optimizer
    rule = settings.rule.update(options.beta1, options.beta2, options.epsilon)
    moments = Moments(jnp.maximum(state.updates - 1, 0), state.first, state.second)
    # What is skipped may not be finite.
    direction, moments = rule.update(jnp.where(applied, grad * scale, 0.0), moments, state.params)
    if settings.weight_decay:
        # Not by `optax.add_decayed_weights`, whose mask chooses whole leaves: here all are one vector.
        decay = jnp.where(jnp.arange(grad.size) < settings.n_decayed, settings.weight_decay, 0.0)
        direction = direction + decay.astype(grad.dtype) * state.params
    params = optax.apply_updates(state.params, -learning_rate * direction)
    # `optax.incremental_update` multiplies by 1 - rate, whose rounding adds up over the steps.
    ema = state.ema + ema_rate * (params - state.ema)
    new = {"params": params, "ema": ema, "first": moments.first, "second": moments.second}
    # Not `optax.apply_if_finite`, which knows no threshold and leaves the average out.
    return state._replace(**{n: jnp.where(applied, value, getattr(state, n)) for n, value in new.items()})


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
