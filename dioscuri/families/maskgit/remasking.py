"""Masking sampled tokens again: ReMDM (Wang et al. 2025, sections 3.2 and 4).

In the paper's terms, a step goes from time t to s < t, and alpha is the share of known tokens. A token that
was sampled is masked with probability sigma_t, one that was masked stays so with probability
(1 - alpha_s - sigma_t alpha_t) / (1 - alpha_t). So alpha_s of the tokens are known after the step, whatever
sigma_t is.
"""

import numpy as np

from dioscuri.families.token_models.masking_options import Sampling
from dioscuri.schedules import mask_ratio

ROUNDING = 1e-9
_HALVINGS = 60


def schedule_times(options: Sampling, n_tokens: int) -> np.ndarray:
    """The time at which `sampling_schedule` is read after each step, (T,) float64 from 0 to 1: the share of
    the steps done, but the loop holds it where `loop_alpha_on` of the tokens are known."""
    shares = np.arange(1, options.steps + 1) / options.steps
    if options.remask != "loop":
        return shares
    hold = _time_of(options, n_tokens)
    times: np.ndarray = np.interp(
        shares, (0, 1 - options.loop_t_on, 1 - options.loop_t_off, 1), (0, hold, hold, 1)
    )
    return times


def known_shares(options: Sampling, n_tokens: int) -> np.ndarray:
    """alpha before the first step and after each: (T + 1,) float64, from 0 to 1."""
    if options.mask_counts:
        after = 1 - np.asarray(options.mask_counts) / n_tokens
    else:
        after = _known(options, schedule_times(options, n_tokens), n_tokens)
    return np.concatenate([[0.0], after[:-1], [1.0]])


def remasking(options: Sampling, n_tokens: int) -> np.ndarray:
    """sigma_t of each step, (T,) float64: `remask_rate`, at most (1 - alpha_s) / alpha_t (cap), that times
    `remask_rate` (rescale), or the same as cap inside the loop and 0 outside (loop)."""
    alpha = known_shares(options, n_tokens)
    limit = np.minimum(1, (1 - alpha[1:]) / np.maximum(alpha[:-1], ROUNDING))
    capped = np.minimum(options.remask_rate, limit)
    match options.remask:
        case "cap" | "random":
            return np.asarray(capped)
        case "rescale":
            return np.asarray(options.remask_rate * limit)
        case "loop":
            t = 1 - np.arange(options.steps) / options.steps
            inside = (t <= options.loop_t_on + ROUNDING) & (t > options.loop_t_off + ROUNDING)
            return np.where(inside, capped, 0)
        case _:
            return np.zeros(options.steps)


def staying(options: Sampling, n_tokens: int) -> np.ndarray:
    """Probability, (T,) float64, that a masked token is masked after a step."""
    alpha, sigma = known_shares(options, n_tokens), remasking(options, n_tokens)
    unknown = 1 - alpha[:-1]
    after = 1 - alpha[1:] - sigma * alpha[:-1]
    return np.clip(np.where(unknown > 0, after / np.maximum(unknown, ROUNDING), 0), 0, 1)


def _known(options: Sampling, times: np.ndarray, n_tokens: int) -> np.ndarray:
    known: np.ndarray = 1 - np.clip(mask_ratio(options.sampling_schedule, times, float(n_tokens)), 0, 1)
    return known


def _time_of(options: Sampling, n_tokens: int) -> float:
    """The time at which `loop_alpha_on` of the tokens are known, by bisection; a millionth fewer, so that
    rounding to float32 does not take one from the masked tokens."""
    low, high, known = 0.0, 1.0, options.loop_alpha_on - 1e-6
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        below = _known(options, np.array([middle]), n_tokens)[0] < known
        low, high = (middle, high) if below else (low, middle)
    return high
