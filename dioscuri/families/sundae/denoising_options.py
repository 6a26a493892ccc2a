"""Options of SUNDAE's training and of sampling from it (Savinov et al. 2022, sections 2.2 and 3)."""

from dataclasses import dataclass

from dioscuri.errors import UserError
from dioscuri.families.token_models.masking_options import Filters
from dioscuri.hparams.schema import option

USUAL_MIN_STEPS = 10


@dataclass(frozen=True, kw_only=True)
class Unrolling:
    """Cross-entropy on all tokens, given corrupted tokens and then the network's own samples."""

    unroll_steps: int = option(2, low=1, high=64, doc="passes per step, each on the previous pass's samples")
    unroll_weights: tuple[float, ...] = option(
        (),
        low=0,
        high=10**6,
        doc="weights of the passes' losses, divided by their sum; empty: equal",
    )

    def __post_init__(self) -> None:
        n, weights = self.unroll_steps, self.unroll_weights
        if weights and (len(weights) != n or not sum(weights)):
            raise UserError(f"[loss] unroll_weights must be {n} numbers, one per unroll step, not all 0")

    @property
    def weights(self) -> tuple[float, ...]:
        """Weights of the passes in the loss, which sum to 1."""
        given = self.unroll_weights or (1.0,) * self.unroll_steps
        return tuple(weight / sum(given) for weight in given)


@dataclass(frozen=True, kw_only=True)
class Resampling(Filters):
    """How tokens are resampled, step by step, starting from random ones."""

    sampler: str = option(
        "ancestral",
        choices=("ancestral", "argmax_unrolled"),
        doc="ancestral: a random share of the tokens is sampled again in each step; argmax_unrolled: the "
        "most likely tokens, and a second pass predicts the least certain ones again",
    )
    steps: int = option(100, low=1, high=2**16, doc="maximum number of steps per picture")
    min_steps: int = option(
        USUAL_MIN_STEPS,
        low=0,
        high=2**16,
        needs=("early_stop", (True,)),
        doc="steps before a picture may be finished",
    )
    early_stop: bool = option(True, doc="stop sampling a picture when a step does not change it")
    stop_rule: str = option(
        "unmasked",
        choices=("unmasked", "masked"),
        needs=("early_stop", (True,)),
        doc="tokens that must not change in the last step: unmasked: all tokens, if all were sampled again; "
        "masked: only those sampled in the step, which may be few, as in the original",
    )
    temperature: float = option(
        1.0,
        low=0,
        high=10**4,
        needs=("sampler", ("ancestral",)),
        doc="ancestral: temperature of the logits in the first step",
    )
    end_temperature: float | None = option(
        None,
        low=0,
        high=10**4,
        needs=("sampler", ("ancestral",)),
        doc="value in the last step; None: as in the first step",
    )
    sample_proportion: float = option(
        0.5,
        low=0,
        high=1,
        doc="ancestral: probability that a token is sampled again; argmax_unrolled: share predicted again",
    )
    end_sample_proportion: float | None = option(
        None, low=0, high=1, doc="value in the last step; None: as in the first step"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < self.min_steps != USUAL_MIN_STEPS and self.early_stop:
            raise UserError(
                f"[synthesis] min_steps {self.min_steps} is above steps {self.steps}: give fewer, or "
                "early_stop=False, which takes every step"
            )
