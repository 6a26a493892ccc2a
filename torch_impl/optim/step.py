"""One optimiser step on flat vectors, without synchronisation: norm -> clip -> skip -> update -> average."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dioscuri.hparams.sections import Optimizer
from torch_impl.optim.optimizers import RULES, Moments, Rule

_CPU_CHUNK = 1 << 17
"""Values updated at a time on the CPU without compilation, so that temporaries stay in the cache."""


@dataclass
class OptimizerState:
    """Vectors (P,) of parameters, moments and averaged parameters; 0-d int64 counters of updates."""

    params: Tensor
    first: Tensor
    second: Tensor
    ema: Tensor
    updates: Tensor
    skips: Tensor
    skips_in_row: Tensor
    longest_row: Tensor

    @staticmethod
    def start(params: Tensor) -> "OptimizerState":
        """The state before the first update; the average is initially a copy."""
        counters = [torch.zeros((), dtype=torch.int64, device=params.device) for _ in range(4)]
        return OptimizerState(
            params, torch.zeros_like(params), torch.zeros_like(params), params.clone(), *counters
        )


@dataclass(frozen=True)
class Settings:
    """Constants of the step: the rule, its options, the number of decayed values, which come first, and the
    norm of a vector, of which a process may hold a share."""

    rule: Rule
    optimizer: Optimizer
    weight_decay: float
    n_decayed: int
    norm: Callable[[Tensor], Tensor] = torch.linalg.vector_norm

    @staticmethod
    def make(optimizer: Optimizer, weight_decay: float, n_decayed: int) -> "Settings":
        """Look the rule up by `optimizer.type`."""
        return Settings(RULES[optimizer.type], optimizer, weight_decay, n_decayed)


def optimizer_step(
    state: OptimizerState, grad: Tensor, learning_rate: Tensor, ema_rate: Tensor, settings: Settings
) -> Tensor:
    """Apply one update in place; return the global gradient norm before clipping (0-d).

    The average moves towards the new parameters by the fraction `ema_rate`, 1 - decay.

    If the norm is not finite or, with `gradient_skip`, reaches `gradient_skip_threshold`, nothing but the
    count of skips changes. Weight decay is decoupled: learning_rate * weight_decay * p is also subtracted
    from decayed parameters.
    """
    optimizer = settings.optimizer
    norm = settings.norm(grad)
    applied = torch.isfinite(norm)
    if optimizer.gradient_skip:
        applied = applied & (norm < optimizer.gradient_skip_threshold)
    scale = torch.ones_like(norm)
    if optimizer.clip_gradient_norm:
        scale = optimizer.gradient_clip_norm_value / torch.clamp(norm, min=optimizer.gradient_clip_norm_value)
    _count(state, applied)
    chunked = grad.device.type == "cpu" and not torch.compiler.is_compiling()
    for start, stop, decay in _spans(settings, grad.numel(), _CPU_CHUNK if chunked else grad.numel()):
        _update(state, grad, slice(start, stop), decay, (scale, applied, learning_rate, ema_rate), settings)
    return norm


def masked_step(
    state: OptimizerState,
    grad: Tensor,
    learning_rate: Tensor,
    ema_rate: Tensor,
    settings: Settings,
    mask: Tensor,
    *,
    last: bool,
) -> Tensor:
    """`optimizer_step` on the parameters under a mask (P,). Of several in a training step, only the `last`
    counts as an update."""
    vectors = (state.params, state.first, state.second, state.ema)
    before, updates = [vector.clone() for vector in vectors], state.updates.clone()
    norm = optimizer_step(state, grad, learning_rate, ema_rate, settings)
    for vector, old in zip(vectors, before, strict=True):
        torch.where(mask, vector, old, out=vector)
    if not last:
        state.updates.copy_(updates)
    return norm


def _update(
    state: OptimizerState,
    grad: Tensor,
    span: slice,
    decay: float,
    scalars: tuple[Tensor, Tensor, Tensor, Tensor],
    settings: Settings,
) -> None:
    scale, applied, learning_rate, ema_rate = scalars
    optimizer, params = settings.optimizer, state.params[span]
    share = applied.to(grad.dtype)
    direction = settings.rule.update(
        torch.where(applied, grad[span] * scale, 0.0),  # what is skipped may not be finite
        Moments(torch.clamp(state.updates, min=1).to(grad.dtype), state.first[span], state.second[span]),
        share,
        optimizer.beta1,
        optimizer.beta2,
        optimizer.epsilon,
    )
    if decay:
        direction.add_(params, alpha=decay)
    params.sub_(direction.mul_(learning_rate * share))
    state.ema[span].lerp_(params, ema_rate * share)


def _count(state: OptimizerState, applied: Tensor) -> None:
    """Counters; `updates` is afterwards the number of this update, if it is applied."""
    skipped = (~applied).to(torch.int64)
    state.updates += 1 - skipped
    state.skips += skipped
    state.skips_in_row.copy_((state.skips_in_row + 1) * skipped)
    state.longest_row.copy_(torch.maximum(state.longest_row, state.skips_in_row))


def _spans(settings: Settings, size: int, chunk: int) -> list[tuple[int, int, float]]:
    """(start, stop, weight decay) of the pieces to update; none mixes decayed with other parameters."""
    spans = []
    for low, high, decay in ((0, settings.n_decayed, settings.weight_decay), (settings.n_decayed, size, 0.0)):
        spans += [(start, min(start + chunk, high), decay) for start in range(low, high, chunk)]
    return spans
