"""A classifier as the engine sees it: its loss, and its modes as functions of arrays.

Modes take the model and arrays with the batch first: `image`, uint8 NHWC, and `label` (B,).
"""
# ruff: noqa: ARG002 - the arguments are the engine's

from collections.abc import Hashable, Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from dioscuri.families.classifier import plan as classifier
from dioscuri.families.classifier.options import HParams
from dioscuri.plans.noise import NoiseSpec
from dioscuri.plans.parameters import initial_values, shapes
from jax_impl.devices import COMPUTE_DTYPES
from jax_impl.families.methods import FamilyMethods
from jax_impl.layers.pictures import to_range
from jax_impl.models.classifier import Classifier
from jax_impl.objectives.masked_tokens import cross_entropy

Arrays = Mapping[str, Array]


class Terms(NamedTuple):
    """Of every picture (B,): cross-entropy in nats, and 1 where its class is the likeliest."""

    loss: Array
    correct: Array


class ClassifierMethods(FamilyMethods):
    """See `dioscuri.contract.FamilyMethods`."""

    def __init__(self, hparams: HParams) -> None:
        data = hparams.data
        self.hparams = hparams
        self.plan = classifier.make_plan(hparams.model, data.target_res, data.channels)
        self.table = classifier.parameter_table(self.plan)
        self.weight_decay = hparams.loss.weight_decay
        self.metric_sizes = dict.fromkeys(classifier.METRICS, 0)
        self.dtype = COMPUTE_DTYPES[hparams.train.precision]

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Canonical shape of every parameter."""
        return shapes(self.table)

    def initial_parameters(self, seed: int) -> dict[str, np.ndarray]:
        """First values under canonical names."""
        return initial_values(self.table, seed)

    def decayed(self, name: str) -> bool:
        """Whether weight decay acts on a parameter."""
        return self.table[name].decays

    def build(self) -> nnx.Module:
        """The model; its parameters' values do not matter."""
        return Classifier(self.plan, self.dtype)

    def noise_specs(self, method: str, batch: int) -> tuple[NoiseSpec, ...]:
        """Noise that a method takes: none does."""
        return ()

    def terms(
        self,
        model: nnx.Module,
        batch: Arrays,
        noise: Arrays,
        buffers: Arrays,
        frozen: Arrays,
        phase: Hashable,
    ) -> Terms:
        """Of training: labels are smoothed."""
        return self._terms(self._logits(model, batch), batch, self.hparams.loss.label_smoothing)

    def loss(
        self, terms: Terms, scalars: Arrays, statistics: Array | None, phase: Hashable
    ) -> tuple[Array, dict[str, Array], dict[str, Array]]:
        """Mean cross-entropy, and the share of right answers."""
        loss = terms.loss.mean()
        return loss, {"loss": loss, "accuracy": terms.correct.mean()}, {}

    def evaluate(self, model: nnx.Module, batch: Arrays, noise: Arrays, frozen: Arrays) -> dict[str, Array]:
        """`cross_entropy` (B,) and `correct` (B,)."""
        loss, correct = self._terms(self._logits(model, batch), batch, 0.0)
        return {"cross_entropy": loss, "correct": correct}

    def encode(self, model: nnx.Module, batch: Arrays, noise: Arrays, frozen: Arrays) -> dict[str, Array]:
        """`features` (B, D) and `logits` (B, K)."""
        logits, aux = model(self._pictures(batch))
        return {"features": aux["features"], "logits": logits}

    def _logits(self, model: nnx.Module, batch: Arrays) -> Array:
        return model(self._pictures(batch))[0]

    def _terms(self, logits: Array, batch: Arrays, label_smoothing: float) -> Terms:
        labels = batch["label"].astype(jnp.int32)
        losses = cross_entropy(logits[:, None], labels[:, None], label_smoothing)[:, 0]
        return Terms(losses, (logits.argmax(-1) == labels).astype(losses.dtype))

    def _pictures(self, batch: Arrays) -> Array:
        """In [-1, 1], in at least float32."""
        dtype = jnp.float64 if self.dtype == jnp.float64 else jnp.float32
        return to_range(batch["image"], "signed", dtype)


FAMILY = ClassifierMethods
