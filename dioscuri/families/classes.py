"""Classes as a condition, for every family that has them: whether options and examples fit the model's."""

from typing import Any

from dioscuri import inputs
from dioscuri.data import Examples
from dioscuri.errors import UserError


def check_classes(hparams: Any) -> None:
    """Raise a `UserError` if the classes of the model, the examples and the sampling options do not match."""
    classes, options = hparams.model.num_classes, hparams.synthesis
    if classes and not hparams.data.labels:
        raise UserError(
            f"[data] labels must be True for a model of {classes} classes, or model.num_classes=0"
        )
    inputs.check_classes(options.classes, classes, "[synthesis] classes")


def check_labels(examples: Examples, classes: int) -> None:
    """Raise a `UserError` if examples have a class that a model of so many classes lacks."""
    if classes and examples.labels is not None and examples.labels.max() >= classes:
        raise UserError(
            f"[model] num_classes is {classes}, but {examples.name} has class {examples.labels.max()}: raise "
            f"it to {examples.labels.max() + 1}"
        )
