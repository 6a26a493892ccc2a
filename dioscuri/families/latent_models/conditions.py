"""Classes of a variational autoencoder: what the model is given and asked for, and what fits together."""

from typing import Any

import numpy as np

from dioscuri.context import Context
from dioscuri.data import Examples
from dioscuri.engine import Array, Batch
from dioscuri.errors import UserError
from dioscuri.families import classes
from dioscuri.families.latent_models.plan import LatentPlan
from dioscuri.inputs import read_classes, read_count


def examples(batch: Batch) -> dict[str, Array]:
    """What a model is given of a batch of the pipeline: `image` and, where it has classes, `label`."""
    return {name: batch[name] for name in ("image", "label") if name in batch}


def latents(encoded: Batch, batch: Batch) -> dict[str, Array]:
    """What `decode` is given of what `encode` made of a batch: latents `z.<l>` and, with classes, `label`."""
    return {name: array for name, array in encoded.items() if name.startswith("z.")} | known_classes(batch)


def known_classes(rows: Batch) -> dict[str, Array]:
    """`label` of rows, if they have any."""
    return {"label": rows["label"]} if "label" in rows else {}


def labelled(rows: dict[str, Array], classes: Any, hparams: Any, call: str) -> dict[str, Array]:
    """Rows and the classes that were given to a call for them, if any."""
    n_classes = getattr(hparams.model, "num_classes", 0)
    if classes is not None:
        return rows | {"label": read_classes(classes, n_classes, n=len(next(iter(rows.values()))))}
    if n_classes and not hparams.loss.cond_dropout_prob:
        raise UserError(f"{call} needs classes: give one for each picture, or one for all")
    return rows


def asked(n: int | None, classes: Any, n_classes: int) -> dict[str, Array]:
    """Rows for n new pictures: the classes given, else all in turn, or numbers where the model has none."""
    count = None if n is None else read_count(n, "n")
    if classes is not None:
        return {"label": read_classes(classes, n_classes, n=count)}
    numbers = np.arange(16 if count is None else count)
    return {"label": (numbers % n_classes).astype(np.int32)} if n_classes else {"index": numbers}


def chosen_classes(hparams: Any, plan: LatentPlan) -> Array:
    """Those of `synthesis.classes`, or all of the model's; none where it has none."""
    return np.asarray(hparams.synthesis.classes or range(plan.num_classes), np.int32)


def order(hparams: Any, plan: LatentPlan, first: int, n: int) -> dict[str, Array]:
    """What is asked of the model for examples `first` ... `first` + n - 1: classes in turn, if it has any."""
    numbers, chosen = first + np.arange(n), chosen_classes(hparams, plan)
    return {"label": chosen[numbers % len(chosen)]} if len(chosen) else {"index": numbers}


def walked(batch: Batch, hparams: Any, first: int) -> dict[str, Array]:
    """What a model is given of a batch of the pipeline whose examples, or pairs, have numbers from `first`:
    their classes, or those of `synthesis.classes` in turn."""
    rows, chosen = examples(batch), np.asarray(hparams.synthesis.classes, np.int32)
    if not len(chosen):
        return rows
    return rows | {"label": chosen[(first + np.arange(len(rows["image"]))) % len(chosen)]}


def guidance(hparams: Any) -> float | None:
    """`synthesis.guidance_scale`, or None where there is no guidance."""
    return float(hparams.synthesis.guidance_scale) or None


def check_conditions(hparams: Any) -> None:
    """Raise a `UserError` if the options of classes and guidance do not fit the model's."""
    classes.check_classes(hparams)
    check_guidance(hparams.synthesis.guidance_scale, hparams)


def check_guidance(scale: float, hparams: Any) -> None:
    """Raise a `UserError` if the model has no classes, or never learnt to do without them."""
    if scale and not getattr(hparams.model, "num_classes", 0):
        raise UserError("[synthesis] guidance_scale needs a model with classes: set it to 0")
    if scale and not hparams.loss.cond_dropout_prob:
        raise UserError(
            "[synthesis] guidance_scale needs a model also trained without classes: train with "
            "loss.cond_dropout_prob above 0, or set guidance_scale=0"
        )


def check_labelled(pictures: Examples, hparams: Any) -> None:
    """Raise a `UserError` if pictures have no classes and the model cannot do without."""
    if hparams.model.num_classes and pictures.labels is None and not hparams.loss.cond_dropout_prob:
        raise UserError(
            f"{pictures.name} has no classes, but the model needs them: put the pictures into class folders, "
            "or train with loss.cond_dropout_prob above 0"
        )


def check_walked(pictures: Examples, hparams: Any) -> None:
    """The same for modes that `synthesis.classes` can give classes to."""
    if not hparams.synthesis.classes:
        check_labelled(pictures, hparams)


def check_examples(context: Context) -> None:
    """Raise a `UserError` if examples have a class that the model lacks."""
    n_classes = context.hparams.model.num_classes
    if n_classes:
        for split in (context.sets.train, context.sets.validation, context.sets.test):
            classes.check_labels(split, n_classes)
