"""Host logic of families with groups of latents: metrics under Efficient-VDVAE's TensorBoard names,
validation, report and synthesis.

Likelihoods are in bits per dimension, or in nats per picture for binary pictures; `average_kl_div` is in bits
per latent dimension, as in the original.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from dioscuri import schedules
from dioscuri.checkpoint.store import Checkpoint
from dioscuri.context import Context
from dioscuri.contract import Shown, Validation
from dioscuri.engine import Array, Batch
from dioscuri.families.latent_models import modes as synthesis
from dioscuri.families.latent_models.bounds import LN2, Bound, active_groups, evaluate_bound, unit_of
from dioscuri.families.latent_models.conditions import examples
from dioscuri.families.latent_models.plan import LatentPlan
from dioscuri.families.latent_models.report import report
from dioscuri.families.latent_models.sheets import drawn_sheets, reconstruct
from dioscuri.metrics.similarity import NAMES, similarity_of_finite
from dioscuri.outputs.examples import first_training_batch, validation_batches
from dioscuri.outputs.pictures import in_rows, sheet, visible
from dioscuri.outputs.tags import step_tags, with_skips

N_SHOWN = 16


class LatentGroupsRun:
    """See `dioscuri.contract.FamilyRun`."""

    def __init__(self, context: Context, plan: LatentPlan) -> None:
        self.context, self.hparams, self.engine = context, context.hparams, context.engine
        self.plan = plan
        self.unit = unit_of(plan)

    def scalars(self, step: int) -> dict[str, float]:
        """Learning rate, beta, and `gamma`: 1 while the divergences are balanced, else 0."""
        loss = self.hparams.loss
        return {
            "learning_rate": schedules.learning_rate(step, self.hparams.optimizer),
            "beta": schedules.beta(step, loss),
            "gamma": schedules.gamma(step, loss),
        }

    def logged(self, metrics: Mapping[str, float], step: int) -> dict[str, float]:
        """`skips_count` is the fraction of all training steps that were skipped, as in the original."""
        kl = np.array([metrics[f"kl.{group}"] for group in range(len(self.plan.groups))])
        scalars = self.scalars(step - 1)
        return {
            **self._losses(metrics["reconstruction"], kl),
            "Losses/variational_beta": scalars["beta"],
            **step_tags(metrics, scalars, self.hparams),
        }

    def headline(self, metrics: Mapping[str, float]) -> str:
        """Negative ELBO and skipped updates, if any."""
        kl = sum(metrics[f"kl.{group}"] for group in range(len(self.plan.groups)))
        return with_skips(f"-ELBO {self.unit.tell(metrics['reconstruction'] + kl)}", metrics)

    def validate(self, step: int, on_batch: Callable[[], None]) -> Validation:
        """The original's tags are for the raw weights; those of the averaged weights begin with `EMA_`."""
        scalars: dict[str, float] = {}
        bounds: dict[bool, Bound] = {}
        for ema, prefix in ((False, ""), (True, "EMA_")):
            bounds[ema] = evaluate_bound(
                self.engine, validation_batches(self.context), ema=ema, on_batch=on_batch
            )
            tags = self._losses(bounds[ema].reconstruction, bounds[ema].kl)
            scalars |= {prefix + tag: value for tag, value in tags.items()}
        scalars["Losses/variational_beta"] = self.scalars(step - 1)["beta"]
        first = next(validation_batches(self.context))
        shown = self._look(first, step)
        images = {**shown.images, **drawn_sheets(self.context, self.plan, first, step)}
        raw, averaged = (self.unit.tell(bounds[ema].negative_elbo) for ema in (False, True))
        active = sum(active_groups(self.plan, bounds[True].kl, self.hparams.metrics.latent_active_threshold))
        return Validation(
            score=bounds[True].negative_elbo,
            headline=f"validation -ELBO {averaged} with averaged weights, {raw} with raw ones; "
            f"{active} of {len(self.plan.groups)} groups active",
            scalars={**scalars, **shown.scalars},
            histograms=shown.histograms,
            images=images,
        )

    def show(self, step: int) -> Shown:
        """The first training pictures, their reconstructions with raw weights, and their similarity."""
        return self._look(first_training_batch(self.context, N_SHOWN), step)

    def facts(self) -> dict[str, int]:
        """Groups of latents, their levels and their values."""
        groups = len(self.plan.groups)
        return {
            "latent_groups": groups,
            "latent_levels": self.plan.n_levels,
            "latent_values": sum(map(self.plan.latent_dims, range(groups))),
        }

    def report(self) -> dict[str, Any]:
        """Test bound with averaged weights, divergence by level, baselines, sheets."""
        return report(self.context, self.plan)

    def synthesise(self, checkpoint: Checkpoint) -> None:
        """Run the mode of `synthesis.synthesis_mode`."""
        synthesis.run(self.context, self.plan, checkpoint)

    def _losses(self, reconstruction: float, kl: Array) -> dict[str, float]:
        """Tagged losses from the reconstruction term and the groups' divergence (L,) in nats per picture."""
        dims = np.array([self.plan.latent_dims(group) for group in range(len(kl))])
        each = {
            f"Losses/latent_kl_{group}": float(value * self.unit.per_nat) for group, value in enumerate(kl)
        }
        return {
            "Losses/reconstruction_loss": reconstruction * self.unit.per_nat,
            "Losses/kl_div": float(kl.sum()) * self.unit.per_nat,
            "Losses/average_kl_div": float((kl / dims).mean()) / LN2,
            "Losses/nelbo": (reconstruction + float(kl.sum())) * self.unit.per_nat,
            **each,
        }

    def _look(self, batch: Batch, step: int) -> Shown:
        """Histograms and pictures of a batch, and the mean similarity of its reconstructions."""
        results = reconstruct(self.context, self.plan, batch, ema=False, step=step)
        valid = batch["valid"]
        original, made = visible(batch["image"], self.plan)[valid], results["image"][valid]
        similarities = similarity_of_finite(original, made, results["reconstruction"][valid])
        statistics = self.engine.run("output_statistics", examples(batch), ema=False, step=step)
        histograms = {"Distributions/target": _scaled(original), "Distributions/output": _scaled(made)}
        histograms |= {f"OutputLayer/{name}": array[valid] for name, array in statistics.items()}
        images = {
            f"{step}/Original_{step}": sheet(in_rows(original[:N_SHOWN])),
            f"{step}/Generated_{step}": sheet(in_rows(made[:N_SHOWN])),
        }
        return Shown(
            histograms, images, {f"Losses/{NAMES[len(self.plan.extent)]}": float(similarities.mean())}
        )


def _scaled(pictures: Array) -> Array:
    """Stored values, scaled to -1 ... 1."""
    return pictures.astype(np.float32) / (np.iinfo(pictures.dtype).max / 2) - 1
