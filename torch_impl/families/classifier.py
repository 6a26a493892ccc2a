"""A classifier for the engine: its loss, and its modes as functions of tensors.

Modes take the model and arrays with the batch first: `image`, uint8 NHWC, and `label` (B,).
"""
# ruff: noqa: ARG002 - the arguments are the engine's

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dioscuri.families.classifier import plan as classifier
from dioscuri.families.classifier.options import HParams
from torch_impl.devices import COMPUTE_DTYPES
from torch_impl.families.methods import FamilyMethods, Result, Scalars
from torch_impl.layers.pictures import to_range
from torch_impl.models.classifier import Classifier
from torch_impl.objectives.masked_tokens import cross_entropy

Tensors = Mapping[str, Tensor]


class Terms(NamedTuple):
    """Per picture (B,): cross-entropy in nats, and 1 where the predicted class is right."""

    loss: Tensor
    correct: Tensor


class ClassifierMethods(FamilyMethods):
    """See `dioscuri.contract.FamilyMethods`."""

    def __init__(self, hparams: HParams) -> None:
        self.hparams = hparams
        self.plan = classifier.make_plan(hparams)
        self.table = classifier.parameter_table(self.plan)
        self.weight_decay = hparams.loss.weight_decay
        self.metric_sizes = dict.fromkeys(classifier.METRICS, 0)
        self.dtype = COMPUTE_DTYPES[hparams.train.precision]

    def build(self) -> nn.Module:
        """The model; its parameters need not be initialised."""
        return Classifier(self.plan)

    def loss(
        self, model: Any, batch: Tensors, noise: Tensors, scalars: Scalars, buffers: Tensors, frozen: Tensors
    ) -> tuple[Tensor, Result, Result]:
        """Mean cross-entropy with smoothed labels, and the accuracy."""
        terms = self._terms(self._logits(model, batch), batch, self.hparams.loss.label_smoothing)
        loss = terms.loss.mean()
        return loss, {"loss": loss, "accuracy": terms.correct.mean()}, {}

    def evaluate(self, model: Any, batch: Tensors, noise: Tensors, frozen: Tensors) -> dict[str, Tensor]:
        """`cross_entropy` (B,) and `correct` (B,)."""
        loss, correct = self._terms(self._logits(model, batch), batch, 0.0)
        return {"cross_entropy": loss, "correct": correct}

    def encode(self, model: Any, batch: Tensors, noise: Tensors, frozen: Tensors) -> dict[str, Tensor]:
        """`features` (B, D) and `logits` (B, K)."""
        logits, aux = model(self._pictures(batch))
        return {"features": aux["features"], "logits": logits}

    def _logits(self, model: Any, batch: Tensors) -> Tensor:
        logits: Tensor = model(self._pictures(batch))[0]
        return logits

    def _terms(self, logits: Tensor, batch: Tensors, label_smoothing: float) -> Terms:
        labels = batch["label"].to(torch.int64)
        losses = cross_entropy(logits[:, None], labels[:, None], label_smoothing)[:, 0]
        return Terms(losses, (logits.argmax(-1) == labels).to(losses.dtype))

    def _pictures(self, batch: Tensors) -> Tensor:
        """Pictures in [-1, 1], in at least float32."""
        dtype = torch.float64 if self.dtype == torch.float64 else torch.float32
        return to_range(batch["image"], "signed", dtype)


FAMILY = ClassifierMethods
