"""Options of masking sampled tokens again (ReMDM, Wang et al. 2025)."""

from dataclasses import dataclass
from typing import Any

from dioscuri.errors import UserError
from dioscuri.hparams.schema import option

AT_RANDOM = ("cap", "random", "rescale", "loop")


@dataclass(frozen=True, kw_only=True)
class Remasking:
    """Which tokens are sampled again in later steps."""

    remask: str = option(
        "none",
        choices=("none", "confidence", *AT_RANDOM),
        doc="mask sampled tokens again: confidence: those that have become unlikely; or at random (ReMDM, "
        "Wang et al. 2025): cap: with probability remask_rate, as far as the schedule allows; random: the "
        "same, as version 0.1.0 called it; rescale: remask_rate times the most that the schedule allows; "
        "loop: as cap, in a loop of steps in which the schedule stands still",
    )
    remask_rate: float = option(
        0.1,
        low=0,
        high=1,
        needs=("remask", AT_RANDOM),
        doc="cap, loop: probability that a sampled token is masked again in a step; rescale: a factor",
    )
    loop_t_on: float = option(
        0.55,
        low=0,
        high=1,
        needs=("remask", ("loop",)),
        doc="time at which the loop begins; it falls from 1 before the first step to 0 after the last",
    )
    loop_t_off: float = option(
        0.05, low=0, high=1, needs=("remask", ("loop",)), doc="time at which the loop ends"
    )
    loop_alpha_on: float = option(
        0.9, low=0, high=1, needs=("remask", ("loop",)), doc="share of known tokens in the loop"
    )

    @property
    def remasks_at_random(self) -> bool:
        """Whether tokens are masked again by ReMDM."""
        return self.remask in AT_RANDOM


def check_remasking(options: Any) -> None:
    """Raise a `UserError` for a kind of re-masking that the sampler of `options` lacks, or an empty loop."""
    at_random = ("ancestral", "confidence", "logits")
    samplers = at_random if options.remasks_at_random else ("confidence", "logits", "scores")
    if options.remask != "none" and options.sampler not in samplers:
        raise UserError(
            f"[synthesis] remask='{options.remask}' is for sampler {' and '.join(samplers)}, not "
            f"'{options.sampler}': set it to 'none'"
        )
    if options.remask == "loop" and options.loop_t_on <= options.loop_t_off:
        raise UserError(
            f"[synthesis] loop_t_on {options.loop_t_on} must be above loop_t_off {options.loop_t_off}: time "
            "falls from 1 to 0"
        )
    if options.remask == "loop" and not options.loop_alpha_on:
        raise UserError("[synthesis] loop_alpha_on must be above 0: no token is known in the loop")
    if options.remask == "loop" and options.mask_counts:
        raise UserError("[synthesis] remask='loop' holds sampling_schedule: leave mask_counts out")
