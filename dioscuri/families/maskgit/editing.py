"""Sampling that starts from a partial picture: editing (aMUSEd, Patil et al. 2024), and grids of tokens."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from dioscuri.engine import Array
from dioscuri.errors import UserError, quoted
from dioscuri.families.maskgit.plan import TransformerPlan
from dioscuri.families.maskgit.remasking import schedule_times
from dioscuri.families.token_models.masking_options import Sampling
from dioscuri.inputs import is_number, to_array, to_plain
from dioscuri.schedules import mask_ratio

UNKNOWN = -1
"""Marks tokens to sample in a partial grid."""


def first_step(options: Sampling, strength: Any, given: Mapping[str, Any], call: str) -> int | None:
    """The first of the last `strength` of the steps, None if that is less than one step."""
    share = to_plain(strength)
    if not is_number(share, 0, 1):
        raise UserError(f"strength must be a number from 0 to 1, not {quoted(strength)}")
    if "start_step" in given:
        raise UserError(f"{call}: start_step follows from strength: leave it out")
    n_steps = int(options.steps * share)
    return options.steps - n_steps if n_steps else None


def share_masked(options: Sampling, plan: TransformerPlan) -> float:
    """The share of masked tokens of a picture before step `start_step`."""
    first = options.start_step
    if options.mask_counts:
        return options.mask_counts[first - 1] / plan.n_tokens if first else 1.0
    times = np.concatenate([[0.0], schedule_times(options, plan.n_tokens)])
    time = times[first : first + 1].astype(np.float32)
    return float(np.clip(mask_ratio(options.sampling_schedule, time, plan.picture_tokens), 0, 1)[0])


def read_start(given: Any, shape: tuple[int, ...], codebook_size: int) -> tuple[Array, Array]:
    """Tokens (N, L) of partial grids, 0 where they are `UNKNOWN`, and where that is, bool (N, L)."""
    axes, length = ", ".join(map(str, shape)), int(np.prod(shape))
    rule = f"start must be whole numbers (N, {axes}) below {codebook_size}, {UNKNOWN} where to sample"
    array = to_array(given, rule)
    if array.dtype.kind not in "iu" or array.shape[1:] not in (shape, (length,)) or not len(array):
        raise UserError(f"{rule}; got {array.dtype} {array.shape}")
    low, high = int(array.min()), int(array.max())
    if low < UNKNOWN or high >= codebook_size:
        raise UserError(f"{rule}; got numbers from {low} to {high}")
    tokens = array.reshape(len(array), length).astype(np.int32)
    if not (tokens == UNKNOWN).any(1).all():
        raise UserError(f"start: picture {int(np.argmin((tokens == UNKNOWN).any(1)))} has no token to sample")
    return np.maximum(tokens, 0), tokens == UNKNOWN
