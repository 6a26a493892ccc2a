"""A classifier for the engine: its loss, and its modes as functions of arrays.

Modes take the model and arrays with the batch first: `image`, uint8 NHWC, and `label` (B,).
"""
# ruff: noqa: ARG002 - the arguments are the engine's

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import nnx
from jax import Array

from dioscuri.families.classifier import plan as classifier
from dioscuri.families.classifier.options import HParams
from jax_impl.devices import COMPUTE_DTYPES
from jax_impl.families.methods import FamilyMethods, Result, Scalars
from jax_impl.layers.pictures import to_range
from jax_impl.models.classifier import Classifier
from jax_impl.objectives.masked_tokens import cross_entropy

Arrays = Mapping[str, Array]


class Terms(NamedTuple):
    """Per picture (B,): cross-entropy in nats, and 1 where the predicted class is right."""

    loss: Array
    correct: Array


class ClassifierMethods(FamilyMethods):
    """See `dioscuri.contract.FamilyMethods`."""

    def __init__(self, hparams: HParams) -> None:
        self.hparams = hparams
        self.plan = classifier.make_plan(hparams)
        self.table = classifier.parameter_table(self.plan)
        self.weight_decay = hparams.loss.weight_decay
        self.metric_sizes = dict.fromkeys(classifier.METRICS, 0)
        self.dtype = COMPUTE_DTYPES[hparams.train.precision]

    def build(self) -> nnx.Module:
        """The model; its parameters need not be initialised."""
        return Classifier(self.plan)

    def loss(
        self, model: Any, batch: Arrays, noise: Arrays, scalars: Scalars, buffers: Arrays, frozen: Arrays
    ) -> tuple[Array, Result, Result]:
        """Mean cross-entropy with smoothed labels, and the accuracy."""
        terms = self._terms(self._logits(model, batch), batch, self.hparams.loss.label_smoothing)
        loss = terms.loss.mean()
        return loss, {"loss": loss, "accuracy": terms.correct.mean()}, {}

    def evaluate(self, model: Any, batch: Arrays, noise: Arrays, frozen: Arrays) -> dict[str, Array]:
        """`cross_entropy` (B,) and `correct` (B,)."""
        loss, correct = self._terms(self._logits(model, batch), batch, 0.0)
        return {"cross_entropy": loss, "correct": correct}

    def encode(self, model: Any, batch: Arrays, noise: Arrays, frozen: Arrays) -> dict[str, Array]:
        """`features` (B, D) and `logits` (B, K)."""
        logits, aux = model(self._pictures(batch))
        return {"features": aux["features"], "logits": logits}

    def _logits(self, model: Any, batch: Arrays) -> Array:
        logits: Array = model(self._pictures(batch))[0]
        return logits

    def _terms(self, logits: Array, batch: Arrays, label_smoothing: float) -> Terms:
        labels = batch["label"].astype(jnp.int32)
        losses = cross_entropy(logits[:, None], labels[:, None], label_smoothing)[:, 0]
        return Terms(losses, (logits.argmax(-1) == labels).astype(losses.dtype))

    def _pictures(self, batch: Arrays) -> Array:
        """Pictures in [-1, 1], in at least float32."""
        dtype = jnp.float64 if self.dtype == jnp.float64 else jnp.float32
        return to_range(batch["image"], "signed", dtype)


FAMILY = ClassifierMethods
