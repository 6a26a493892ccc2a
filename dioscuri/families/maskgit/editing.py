"""Editing of pictures: some of their tokens are masked again and sampled (aMUSEd, Patil et al. 2024)."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from dioscuri.errors import UserError
from dioscuri.families.token_models.masking_options import Sampling
from dioscuri.schedules import mask_ratio


def first_step(options: Sampling, strength: Any, given: Mapping[str, Any], call: str) -> int | None:
    """The first of the last `strength` of the steps, None if that is less than one step."""
    is_number = isinstance(strength, int | float | np.number) and not isinstance(strength, bool)
    if not is_number or not 0 <= strength <= 1:
        raise UserError(f"strength must be a number from 0 to 1, not {strength!r}")
    if "start_step" in given:
        raise UserError(f"{call}: start_step follows from strength: leave it out")
    n_steps = int(options.steps * strength)
    return options.steps - n_steps if n_steps else None


def share_masked(options: Sampling, n_tokens: int) -> float:
    """The share of masked tokens of a picture before step `start_step`."""
    time = np.array([options.start_step / options.steps], np.float32)
    return float(np.clip(mask_ratio(options.sampling_schedule, time, n_tokens), 0, 1)[0])
