"""Host logic of each family: what the loop logs, validates and reports, and which synthesis modes there are.

`dioscuri/families/<run.family>/logic.py` has a class `Family` that fulfils the protocol `FamilyLogic`,
a function `check_options`, `TAKES_TOKENS = True` where its examples may be tokens, `TAKES_SIGNALS = True`
where they may be sounds or clips, and a function `check_examples` where not all examples of a source fit.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from dioscuri.checkpoint.store import Checkpoint
from dioscuri.context import Context
from dioscuri.data.descriptors import describe
from dioscuri.data.options import check_axes
from dioscuri.engine import Array
from dioscuri.errors import UserError
from dioscuri.registry import family_part

OnBatch = Callable[[], None]


@dataclass(frozen=True)
class Validation:
    """What a validation found: `score` picks the best checkpoint (lower is better), the rest is logged."""

    score: float
    headline: str
    scalars: Mapping[str, float]
    histograms: Mapping[str, Array] = field(default_factory=dict)
    images: Mapping[str, Array] = field(default_factory=dict)


@dataclass(frozen=True)
class Shown:
    """Histograms and pictures of training data, logged beside a validation."""

    histograms: Mapping[str, Array]
    images: Mapping[str, Array]


class FamilyLogic(Protocol):
    """What the loop asks of a family. `step` counts the batches trained on, except in `scalars`."""

    def __init__(self, context: Context) -> None: ...

    def scalars(self, step: int) -> dict[str, float]:
        """Values of the schedules for the batch of index `step`, counted from 0."""

    def logged(self, metrics: Mapping[str, float], step: int) -> dict[str, float]:
        """Tags and values for the log, from what `Engine.fetch_metrics` gave after `step` batches."""

    def headline(self, metrics: Mapping[str, float]) -> str:
        """What stands beside the progress bar."""

    def validate(self, step: int, on_batch: OnBatch) -> Validation:
        """Validate with averaged and raw weights; `on_batch` is called after every batch and may raise."""

    def show(self, step: int) -> Shown:
        """What the model makes of a few training pictures."""

    def report(self, step: int) -> None:
        """Tell how good the checkpoint of `step` batches is, which the engine holds."""

    def synthesise(self, checkpoint: Checkpoint) -> None:
        """Do what `synthesis.synthesis_mode` says with the checkpoint, which the engine holds."""


def family_logic(context: Context) -> FamilyLogic:
    """The host logic of the run's family."""
    module: Any = family_part(context.hparams.run.family, "logic")
    logic: FamilyLogic = module.Family(context)
    return logic


def check_options(hparams: Any) -> None:
    """Raise a `UserError` that names the first option that does not fit the others."""
    module: Any = family_part(hparams.run.family, "logic")
    source = hparams.data.dataset_source
    if describe(source).tokens and not getattr(module, "TAKES_TOKENS", False):
        raise UserError(f"[data] dataset_source '{source}': family '{hparams.run.family}' needs pictures")
    if describe(source).rank != 2 and not getattr(module, "TAKES_SIGNALS", False):
        raise UserError(f"[data] dataset_source '{source}': family '{hparams.run.family}' needs pictures")
    check_axes(hparams.data, describe(source))
    module.check_options(hparams)


def check_examples(context: Context) -> None:
    """Raise a `UserError` where the family cannot be trained on the run's examples."""
    module: Any = family_part(context.hparams.run.family, "logic")
    check: Callable[[Context], None] | None = getattr(module, "check_examples", None)
    if check:
        check(context)
