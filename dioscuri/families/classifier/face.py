"""Classifiers of the Python interface: features, logits and classes of pictures."""

from typing import Any

import numpy as np

from dioscuri.engine import Array
from dioscuri.face.model import BATCH_SIZE, Model
from dioscuri.face.usual import Values, halvings
from dioscuri.families.classifier import plan as classifier
from dioscuri.inputs import read_classes
from dioscuri.plans.parameters import initial_values, shapes


class ClassifierModel(Model):
    """A classifier of pictures."""

    does = ("encode", "classify")

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return int(self.hparams.model.num_classes)

    def encode(
        self, pictures: Any, *, seed: int = 0, noise: Any = None, batch_size: int = BATCH_SIZE
    ) -> dict[str, Array]:
        """`features` (N, D) and `logits` (N, K) of pictures."""
        image = self._pictures(pictures)
        return self._run("encode", {"image": image}, noise=noise, seed=seed, batch_size=batch_size)

    def classify(self, pictures: Any, *, batch_size: int = BATCH_SIZE) -> Array:
        """The most likely class of each picture, int32 (N,)."""
        logits = self.encode(pictures, batch_size=batch_size)["logits"]
        likeliest: Array = np.argmax(logits, -1).astype(np.int32)
        return likeliest

    @classmethod
    def parameter_shapes(cls, hparams: Any) -> dict[str, tuple[int, ...]]:
        """Canonical shape of every parameter."""
        return shapes(_table(hparams))

    @classmethod
    def initial_weights(cls, hparams: Any, seed: int) -> dict[str, Array]:
        """Initial values of every parameter."""
        return initial_values(_table(hparams), seed)

    @classmethod
    def usual(cls, given: Values) -> Values:
        """Default options: three levels, ten classes."""
        widths = (32, 64, 128)[: 1 + halvings(int(given["data"]["target_res"]), 2)]
        return {
            "data": {"labels": True},
            "model": {"widths": widths, "num_classes": 10, **given.get("model", {})},
        }

    @property
    def _names(self) -> tuple[str, ...]:
        return ("image", "label")

    def _checked(self, name: str, value: Any, *, padded: bool) -> Array:
        if name == "label":
            return read_classes(value, self.num_classes, where=name)
        return super()._checked(name, value, padded=padded)


def _table(hparams: Any) -> Any:
    return classifier.parameter_table(classifier.make_plan(hparams))


FACE = ClassifierModel
