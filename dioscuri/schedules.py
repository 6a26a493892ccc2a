"""Schedules of the training step: learning rate, decay of the moving average, beta, KL balancing; and mask
schedules, the proportion of masked tokens as a function of time in [0, 1].

Functions of the step are pure and count batches from 0, skipped updates included. Beta and gamma are from
Hazami et al. 2022, the mask schedules from MaskGIT (Chang et al. 2022, section 3.3) and later work.
"""

import math
import re
from typing import Protocol

import numpy as np

from dioscuri.errors import UserError, did_you_mean
from dioscuri.hparams.sections import Optimizer, Train

MASK_SCHEDULES = (
    "cosine", "linear", "uniform", "sigmoid", "log", "exp", "root", "square", "arccos",
)  # fmt: skip
"""Besides pow<x>, such as pow2.5, which is 1 - t^x."""

UNCLIPPED = ("cosine", "arccos", "root", "square")
"""Schedules whose ratio is not clipped to [MIN_RATIO, 1]."""

MIN_RATIO = 1e-6


def learning_rate(step: int, options: Optimizer) -> float:
    """Learning rate of the update at `step`. Every scheme warms up linearly from 0 at step 0.

    Without `warmup_steps`, the schemes of Hugging Face and Metroplex begin at the base rate; the others
    still begin at 0.
    """
    match options.learning_rate_scheme:
        case "noam":
            return _noam(step, options)
        case "constant":
            return _warmup(step, options)
        case "cosine" | "exponential":
            return _decayed(step, options)
        case scheme if scheme.endswith("_times_warmup"):
            return _times_warmup(step, options)
        case _:
            return _hugging_face(step, options)


def ema_decay(step: int, options: Train) -> float:
    """Decay of the weights' moving average in the update at `step` (EMAModel of diffusers and open-muse).

    1, which leaves the average unchanged, except at step 0 and every `ema_update_every` steps after it.
    """
    if step % options.ema_update_every:
        return 1.0
    k = step - options.ema_update_after
    match options.ema_warmup:
        case "none":
            return options.ema_decay
        case _ if k <= 0:
            return 0.0
        case "count":
            decay = (1 + k) / (10 + k)
        case _:
            decay = 1 - (1 + k / options.ema_inv_gamma) ** -options.ema_power
    return max(min(decay, options.ema_decay), options.ema_min_decay)


def mask_power(name: str) -> float | None:
    """x of a schedule named pow<x>, None for any other. A `UserError` names an unknown schedule."""
    if match := re.fullmatch(r"pow(\d+(?:\.\d*)?|\.\d+)", name):
        return float(match[1])
    if name not in MASK_SCHEDULES:
        names = (*MASK_SCHEDULES, "pow2.5")
        raise UserError(f"unknown mask schedule '{name}'{did_you_mean(name, names)}: {', '.join(names)}")
    return None


def mask_ratio(
    name: str, t: np.ndarray, n: float = 256, *, start: float = -3, end: float = 3, tau: float = 1
) -> np.ndarray:
    """Proportion of masked tokens at times t in [0, 1], computed in the dtype of `t`.

    `n` is the number of tokens of a picture, for log and exp; `start`, `end` and `tau` shape the sigmoid.
    """
    kind, bits, one = t.dtype.type, math.log2(max(n, 2)), t.dtype.type(1)
    power = mask_power(name)
    if power is not None:
        name, t = "linear", t ** kind(power)
    match name:
        case "cosine":
            ratio = np.cos(t * kind(math.pi) * kind(0.5))
        case "arccos":
            # Not numpy's: its last bit depends on the processor, and at 1/2 rounding to tokens depends on it.
            ratio = np.vectorize(math.acos, otypes=[t.dtype])(t) * kind(2) / kind(math.pi)
        case "root":
            ratio = one - np.sqrt(t)
        case "square":
            ratio = one - t * t
        case "log":
            ratio = -np.log2(np.maximum(t, np.finfo(t.dtype).tiny)) / kind(bits)
        case "exp":
            ratio = one - np.exp2(-kind(bits) * (one - t))
        case "sigmoid":
            low, high = _sigmoid(start / tau), _sigmoid(end / tau)
            ratio = (high - 1 / (1 + np.exp(-(t * (end - start) + start) / tau))) / (high - low)
        case _:
            ratio = one - t
    clipped = ratio if name in UNCLIPPED else np.clip(ratio, MIN_RATIO, 1)
    return np.asarray(clipped, t.dtype)


class Annealing(Protocol):
    """Options of the schedules of beta and gamma."""

    @property
    def variation_schedule(self) -> str: ...
    @property
    def vae_beta_anneal_start(self) -> float: ...
    @property
    def vae_beta_anneal_steps(self) -> float: ...
    @property
    def vae_beta_min(self) -> float: ...
    @property
    def vae_beta_growth_rate(self) -> float: ...
    @property
    def vae_beta_activation_steps(self) -> float: ...
    @property
    def use_gamma_schedule(self) -> bool: ...
    @property
    def gamma_max_steps(self) -> int: ...


def beta(step: int, options: Annealing) -> float:
    """Weight of the KL divergence in the loss at `step`: 1, or a linear or logistic ramp.

    The linear ramp divides by start + steps, so it ends later than its options say, as in the original.
    """
    match options.variation_schedule:
        case "Linear":
            start, steps = options.vae_beta_anneal_start, options.vae_beta_anneal_steps
            return min(max((step - start) / (start + steps), options.vae_beta_min), 1.0)
        case "Logistic":
            return _sigmoid(options.vae_beta_growth_rate * (step - options.vae_beta_activation_steps))
        case _:
            return 1.0


def gamma(step: int, options: Annealing) -> float:
    """1.0 while the groups' divergences are balanced, for `gamma_max_steps` steps; then 0.0."""
    return 1.0 if options.use_gamma_schedule and step <= options.gamma_max_steps else 0.0


def _warmup(step: int, options: Optimizer) -> float:
    return options.learning_rate * min(1.0, step / (options.warmup_steps or 1.0))


def _noam(step: int, options: Optimizer) -> float:
    """base sqrt(w) min(t^-1/2, t w^-3/2): warm-up, then inverse square root (Vaswani et al. 2017, eq. 3)."""
    warmup = options.warmup_steps or 1.0
    if step <= warmup:
        return options.learning_rate * step / warmup
    return options.learning_rate * math.sqrt(warmup / step)


def _decayed(step: int, options: Optimizer) -> float:
    if step < options.decay_start:
        return _warmup(step, options)
    if options.learning_rate_scheme == "exponential":
        return _exponential(step, options)
    return _legacy_cosine(step, options) if options.legacy_torch_cosine else _cosine(step, options)


def _hugging_face(step: int, options: Optimizer) -> float:
    """Schemes of transformers' `get_scheduler`, whose total length is decay_start + decay_steps."""
    base, low, cycles = options.learning_rate, options.min_learning_rate, options.num_cycles
    if step < options.warmup_steps:
        return base * step / options.warmup_steps
    p = max(step - options.decay_start, 0) / options.decay_steps
    match options.learning_rate_scheme:
        case "linear":
            return base * max(1 - p, 0.0)
        case "half_cosine":
            return base * 0.5 * (1 + math.cos(math.pi * p * cycles))
        case "cosine_with_restarts":
            return base * 0.5 * (1 + math.cos(math.pi * (cycles * p % 1))) if p < 1 else 0.0
        case "polynomial":
            return low + (base - low) * math.pow(max(1 - p, 0.0), options.power)
        case _:
            return base


def _times_warmup(step: int, options: Optimizer) -> float:
    """Schemes of Metroplex: decay over decay_steps to min_learning_rate, times a linear warm-up from 0."""
    base, low = options.learning_rate, options.min_learning_rate
    progress = min(step, options.decay_steps) / options.decay_steps
    match options.learning_rate_scheme:
        case "cosine_times_warmup":
            rate = low + (base - low) * 0.5 * (1 + math.cos(math.pi * progress))
        case "linear_times_warmup":
            rate = base - (base - low) * progress
        case _:
            rate = base
    return rate * (step / options.warmup_steps if step < options.warmup_steps else 1.0)


def _exponential(step: int, options: Optimizer) -> float:
    exponent = (step - options.decay_start) / options.decay_steps
    rate = options.learning_rate * math.pow(options.decay_rate, exponent)
    return min(max(rate, options.min_learning_rate), options.learning_rate)


def _cosine(step: int, options: Optimizer) -> float:
    """Half a cosine from the base rate at decay_start to min_learning_rate, constant from there on."""
    progress = min(step - options.decay_start, options.decay_steps) / options.decay_steps
    base, low = options.learning_rate, options.min_learning_rate
    return low + (base - low) * 0.5 * (1 + math.cos(math.pi * progress))


def _legacy_cosine(step: int, options: Optimizer) -> float:
    """The original torch program's curve, in closed form; it rises again after decay_steps.

    From decay_start on, the original updates the rate by the recursion of an annealed cosine whose phase
    counts from step 0: lr_t - min = (lr_{t-1} - min) (1 + cos(pi t / T)) / (1 + cos(pi (t-1) / T)). The
    factors cancel, leaving a multiple of 1 + cos(pi t / T). At a minimum, where that is zero, the original
    adds (base - min) (1 - cos(pi / T)) / 2, which makes the multiple (base - min) / 2 from there on.
    """
    base, low, period = options.learning_rate, options.min_learning_rate, options.decay_steps
    start = options.decay_start - 1
    if start < 0:
        return low + (base - low) * _raised_cosine(step, period) / 2
    rate = _warmup(start, options)
    if start % (2 * period) == period:
        start, rate = start + 1, rate + (base - low) * (1 - math.cos(math.pi / period)) / 2
    valley = start + (period - start) % (2 * period)
    if step > valley:
        return low + (base - low) * _raised_cosine(step, period) / 2
    return low + (rate - low) * _raised_cosine(step, period) / _raised_cosine(start, period)


def _raised_cosine(step: int, period: int) -> float:
    return 1 + math.cos(math.pi * step / period)


def _sigmoid(x: float) -> float:
    decay = math.exp(-abs(x))
    return (1.0 if x >= 0 else decay) / (1.0 + decay)
