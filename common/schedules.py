"""Numbers that follow the training step: learning rate, beta, KL balancing (Hazami et al. 2022).

Pure functions of the step, which counts batches from 0, skipped updates included.
"""

import math

from common.hparams.families.hierarchical_vae import Loss
from common.hparams.sections import Optimizer


def learning_rate(step: int, options: Optimizer) -> float:
    """Learning rate of the update at `step`. Every scheme warms up linearly from 0 at step 0."""
    match options.learning_rate_scheme:
        case "noam":
            return _noam(step, options)
        case "constant":
            return _warmup(step, options)
    if step < options.decay_start:
        return _warmup(step, options)
    if options.learning_rate_scheme == "exponential":
        return _exponential(step, options)
    return _legacy_cosine(step, options) if options.legacy_torch_cosine else _cosine(step, options)


def beta(step: int, options: Loss) -> float:
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


def gamma(step: int, options: Loss) -> float:
    """1.0 while the groups' divergences are balanced, which ends after `gamma_max_steps`; then 0.0."""
    return 1.0 if options.use_gamma_schedule and step <= options.gamma_max_steps else 0.0


def _warmup(step: int, options: Optimizer) -> float:
    return options.learning_rate * min(1.0, step / (options.warmup_steps or 1.0))


def _noam(step: int, options: Optimizer) -> float:
    """base sqrt(w) min(t^-1/2, t w^-3/2): warm-up, then inverse square root (Vaswani et al. 2017, eq. 3)."""
    warmup = options.warmup_steps or 1.0
    if step <= warmup:
        return options.learning_rate * step / warmup
    return options.learning_rate * math.sqrt(warmup / step)


def _exponential(step: int, options: Optimizer) -> float:
    exponent = (step - options.decay_start) / options.decay_steps
    rate = options.learning_rate * math.pow(options.decay_rate, exponent)
    return min(max(rate, options.min_learning_rate), options.learning_rate)


def _cosine(step: int, options: Optimizer) -> float:
    """Half a cosine from the base rate at decay_start to min_learning_rate, which stays."""
    progress = min(step - options.decay_start, options.decay_steps) / options.decay_steps
    base, low = options.learning_rate, options.min_learning_rate
    return low + (base - low) * 0.5 * (1 + math.cos(math.pi * progress))


def _legacy_cosine(step: int, options: Optimizer) -> float:
    """The original torch program's curve, in closed form; it rises again after decay_steps.

    The original goes on from the rate before decay_start by the recursion of an annealed cosine whose phase
    counts from step 0: lr_t - min = (lr_{t-1} - min) (1 + cos(pi t / T)) / (1 + cos(pi (t-1) / T)). The
    factors cancel, which leaves a multiple of 1 + cos(pi t / T). From a valley, where that is zero, it goes
    on with lr + (base - min) (1 - cos(pi / T)) / 2, and the multiple is (base - min) / 2 from there on.
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
