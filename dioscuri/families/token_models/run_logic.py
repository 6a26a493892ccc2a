"""Host logic shared by all token models."""

from collections.abc import Callable
from typing import Any

import numpy as np

from dioscuri import schedules
from dioscuri.checkpoint.store import Checkpoint
from dioscuri.context import Context
from dioscuri.contract import Shown, Validation
from dioscuri.engine import Array
from dioscuri.families.token_models import modes
from dioscuri.families.token_models.drawing import (
    can_draw,
    check_draws,
    chosen_classes,
    draw,
    pictures_of,
)
from dioscuri.families.token_models.evaluation import Quality, evaluate
from dioscuri.families.token_models.report import report
from dioscuri.outputs.examples import first_training_batch, validation_batches
from dioscuri.outputs.pictures import in_rows, sample_rows, sheet

N_SHOWN, N_OF_CLASS = 16, 4


class TokenModelRun:
    """See `dioscuri.contract.FamilyRun`; a family adds `logged` and `headline`."""

    def __init__(self, context: Context, plan: Any) -> None:
        self.context, self.hparams, self.engine, self.plan = context, context.hparams, context.engine, plan

    def scalars(self, step: int) -> dict[str, float]:
        """Learning rate and the decay of the averaged weights."""
        return {
            "learning_rate": schedules.learning_rate(step, self.hparams.optimizer),
            "ema_decay": schedules.ema_decay(step, self.hparams.train),
        }

    def validate(self, step: int, on_batch: Callable[[], None]) -> Validation:
        """Tags of the averaged weights begin with `EMA_`. Their cross-entropy is the score."""
        qualities: dict[bool, Quality] = {}
        scalars: dict[str, float] = {}
        for ema, prefix in ((False, ""), (True, "EMA_")):
            quality = evaluate(
                self.engine,
                validation_batches(self.context),
                self.plan,
                self.hparams.val.mask_ratios,
                ema=ema,
                on_batch=on_batch,
            )
            qualities[ema] = quality
            scalars |= {
                f"{prefix}Losses/cross_entropy": quality.cross_entropy,
                f"{prefix}Masked/accuracy": quality.accuracy,
            }
            scalars |= {
                f"{prefix}Masked/cross_entropy_at_{ratio:g}": value
                for ratio, value in quality.by_ratio.items()
            }
        raw, averaged = qualities[False], qualities[True]
        return Validation(
            score=averaged.cross_entropy,
            headline=f"validation {averaged} with averaged weights; {raw.cross_entropy:.4f} with raw ones",
            scalars=scalars,
            images=self._drawn(step),
        )

    def show(self, step: int) -> Shown:
        """The first training pictures, decoded by the tokenizer if they are tokens."""
        if not can_draw(self.hparams):
            return Shown({}, {})
        batch = first_training_batch(self.context, N_SHOWN)
        pictures = pictures_of(self.context, batch)[batch["valid"]][:N_SHOWN]
        return Shown({}, {f"{step}/Original_{step}": sheet(in_rows(pictures))})

    def facts(self) -> dict[str, int]:
        """Number of tokens per example, and of codes."""
        return {"tokens": self.plan.n_tokens, "codes": self.plan.codebook_size}

    def report(self) -> dict[str, Any]:
        """Test cross-entropy with averaged weights, and measures of samples."""
        return report(self.context, self.plan)

    def synthesise(self, checkpoint: Checkpoint) -> None:
        """Run the mode of `synthesis.synthesis_mode`."""
        check_draws(self.hparams)
        modes.run(self.context, self.plan, checkpoint)

    def _drawn(self, step: int) -> dict[str, Array]:
        """Samples with averaged weights and the same noise every time: a few of each of the first
        classes, one class per row."""
        if not can_draw(self.hparams):
            return {}
        classes = min(len(chosen_classes(self.hparams)), N_SHOWN)
        n = max(N_SHOWN, classes * N_OF_CLASS) if classes == len(chosen_classes(self.hparams)) else N_SHOWN
        made = list(draw(self.context, n, ema=True))
        pictures = np.concatenate([batch["image"] for batch in made])
        labels = np.concatenate([batch["label"] for batch in made]) if "label" in made[0] else None
        return {f"{step}/Generated_{step}": sheet(*sample_rows(pictures, labels))}
