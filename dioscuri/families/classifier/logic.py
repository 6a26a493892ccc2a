"""Host logic of classifiers: logged metrics, validation, report and features."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from dioscuri import schedules
from dioscuri.checkpoint.store import Checkpoint
from dioscuri.context import Context
from dioscuri.contract import Family, OnBatch, Shown, Validation
from dioscuri.data import Examples, pipeline
from dioscuri.data.descriptors import describe
from dioscuri.engine import Array, Batch
from dioscuri.errors import UserError
from dioscuri.families.classes import check_labels
from dioscuri.families.classifier import plan as classifier
from dioscuri.families.classifier.options import HParams
from dioscuri.files import replacing
from dioscuri.outputs.examples import (
    batches,
    chosen_indices,
    chosen_split,
    first_training_batch,
    validation_batches,
)
from dioscuri.outputs.pictures import by_class, sheet
from dioscuri.outputs.progress import tracked
from dioscuri.outputs.settings import output_folder
from dioscuri.outputs.tags import step_tags, with_skips
from dioscuri.plans.parameters import shapes

N_SHOWN = 16
MAX_PARAMETERS = 10**10


@dataclass(frozen=True)
class Quality:
    """Means over `n` pictures: cross-entropy in nats, and accuracy."""

    n: int
    cross_entropy: float
    accuracy: float

    def __str__(self) -> str:
        return f"cross-entropy {self.cross_entropy:.4f} nats, accuracy {self.accuracy:.1%}"


def check_options(hparams: HParams) -> None:
    """Raise a `UserError` that names options that do not fit together."""
    data, descriptor = hparams.data, describe(hparams.data.dataset_source)
    if descriptor.padding or descriptor.likelihood == "bernoulli":
        raise UserError(
            f"[data] pictures of '{data.dataset_source}' are padded and sampled again from grey levels: use "
            "'mnist_grey' or 'mnist10k_grey' for a classifier"
        )
    if not data.labels:
        raise UserError("[data] labels must be True: a classifier needs labels")
    if data.num_bits != 8:
        raise UserError(f"[data] num_bits is {data.num_bits:g}: classifiers use all 8 bits: set it to 8.")
    plan = classifier.make_plan(hparams)
    size = sum(prod(parameter.shape) for parameter in classifier.parameter_table(plan).values())
    if size > MAX_PARAMETERS:
        raise UserError(f"[model] has {size:,} parameters, more than {MAX_PARAMETERS:,}: lower its widths")


def check_examples(context: Context) -> None:
    """Raise a `UserError` if pictures have classes that the model lacks."""
    for examples in (context.sets.train, context.sets.validation, context.sets.test):
        check_labels(examples, context.hparams.model.num_classes)


class ClassifierRun:
    """See `dioscuri.contract.FamilyRun`."""

    def __init__(self, context: Context) -> None:
        self.context, self.hparams, self.engine = context, context.hparams, context.engine

    def scalars(self, step: int) -> dict[str, float]:
        """Learning rate and the decay of the averaged weights."""
        return {
            "learning_rate": schedules.learning_rate(step, self.hparams.optimizer),
            "ema_decay": schedules.ema_decay(step, self.hparams.train),
        }

    def logged(self, metrics: Mapping[str, float], step: int) -> dict[str, float]:
        """Loss, accuracy and gradient norm of the training batches, and the schedules."""
        return {
            "Losses/total": metrics["loss"],
            "Losses/accuracy": metrics["accuracy"],
            **step_tags(metrics, self.scalars(step - 1), self.hparams),
        }

    def headline(self, metrics: Mapping[str, float]) -> str:
        """Loss, accuracy and skipped updates, if any."""
        return with_skips(f"loss {metrics['loss']:.4g} nats, accuracy {metrics['accuracy']:.1%}", metrics)

    def validate(self, step: int, on_batch: OnBatch) -> Validation:  # noqa: ARG002 - as of every family
        """Tags of the averaged weights begin with `EMA_`. Their cross-entropy is the score."""
        scalars: dict[str, float] = {}
        accuracies: dict[bool, Quality] = {}
        for ema, prefix in ((False, ""), (True, "EMA_")):
            accuracies[ema] = self._measure(validation_batches(self.context), ema=ema, on_batch=on_batch)
            scalars |= {
                f"{prefix}Losses/cross_entropy": accuracies[ema].cross_entropy,
                f"{prefix}Losses/accuracy": accuracies[ema].accuracy,
            }
        raw, averaged = accuracies[False], accuracies[True]
        headline = f"validation {averaged} with averaged weights; {raw.accuracy:.1%} with raw ones"
        return Validation(averaged.cross_entropy, headline, scalars)

    def show(self, step: int) -> Shown:
        """The first training pictures."""
        batch = first_training_batch(self.context, N_SHOWN)
        pictures, labels = (batch[name][batch["valid"]][:N_SHOWN] for name in ("image", "label"))
        return Shown({}, {f"{step}/Original_{step}": sheet(*by_class(pictures, labels))})

    def facts(self) -> dict[str, int]:
        """Number of classes."""
        return {"classes": self.hparams.model.num_classes}

    def report(self) -> dict[str, Any]:
        """Print and return the quality on the test pictures with averaged weights."""
        context, test = self.context, self.context.sets.test
        size = self.hparams.val.batch_size
        todo = tracked(self._batches(test, size), "test", -(-len(test) // size), shown=context.writes)
        quality = self._measure(todo, ema=True)
        context.say(f"{quality.n} test pictures: {quality}")
        results = {"cross_entropy": quality.cross_entropy, "accuracy": quality.accuracy}
        return {"unit": "nats", "test_pictures": quality.n, **results}

    def synthesise(self, checkpoint: Checkpoint) -> None:
        """Write `features/<split>/{features,logits,labels}.npy`."""
        options = self.hparams.synthesis
        pictures, split = chosen_split(self.context, "test"), options.split or "test"
        output = output_folder(
            self.context, checkpoint, self.context.directory.path / "features", split, split=split
        )
        results: list[dict[str, Array]] = []
        for index, batch in enumerate(
            batches(self.context, pictures, chosen_indices(self.context, pictures), "features")
        ):
            made = self.engine.run(
                "encode", {"image": batch["image"]}, ema=options.load_ema_weights, step=index
            )
            rows = {**made, "labels": batch["label"]}
            results.append({name: array[batch["valid"]] for name, array in rows.items()})
        if self.context.writes:
            for name in results[0]:
                _save(output.path, name, np.concatenate([rows[name] for rows in results]))
        n = sum(len(rows["labels"]) for rows in results)
        self.context.say(f"features, logits and labels of {n} pictures: {output.path}")
        output.finish(n)

    def _measure(
        self, todo: Iterable[Batch], *, ema: bool, on_batch: Callable[[], None] = lambda: None
    ) -> Quality:
        losses, correct = [], []
        for index, batch in enumerate(todo):
            given = {name: batch[name] for name in ("image", "label")}
            results = self.engine.run("evaluate", given, ema=ema, step=index)
            losses.append(results["cross_entropy"][batch["valid"]].astype(np.float64))
            correct.append(results["correct"][batch["valid"]])
            on_batch()
        every = np.concatenate(losses)
        return Quality(len(every), float(every.mean()), float(np.concatenate(correct).mean()))

    def _batches(self, examples: Examples, size: int, limit: int | None = None) -> Iterator[Batch]:
        return pipeline.evaluation_batches(examples, self.hparams, batch_size=size, limit=limit)


def _save(folder: Path, name: str, array: Array) -> None:
    with replacing(folder / f"{name}.npy") as temporary, temporary.open("wb") as file:
        np.save(file, array)


def _network_shapes(hparams: HParams) -> dict[str, tuple[int, ...]]:
    return shapes(classifier.parameter_table(classifier.make_plan(hparams)))


FAMILY = Family(
    run=ClassifierRun,
    check_options=check_options,
    network_shapes=_network_shapes,
    check_examples=check_examples,
)
