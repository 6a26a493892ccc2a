"""Defaults of a family's tensor code, except its model, loss and modes."""
# ruff: noqa: ARG002 - arguments for families that override these methods

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import numpy as np
from flax import nnx
from jax import Array

from dioscuri import contract
from dioscuri.plans.noise import NoiseSpec
from dioscuri.plans.parameters import initial_values, shapes
from jax_impl.trainer import Objective, Trainer, TrainState

Arrays = Mapping[str, Array]
Scalars = Mapping[str, Any]
Result = dict[str, Array]


class FamilyMethods:
    """See `dioscuri.contract.FamilyMethods`. A family sets these attributes and adds `build`, `loss` and its
    modes."""

    hparams: Any
    table: Mapping[str, Any]
    weight_decay: float
    metric_sizes: Mapping[str, int]
    switches: tuple[str, ...] = ()

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Canonical shape of every parameter."""
        return shapes(self.table)

    def initial_parameters(self, seed: int) -> dict[str, np.ndarray]:
        """Initial values under canonical names."""
        return initial_values(self.table, seed)

    def decayed(self, name: str) -> bool:
        """Whether weight decay acts on a parameter."""
        return bool(self.table[name].decays)

    def build(self) -> nnx.Module:
        """The model; its parameters need not be initialised."""
        raise NotImplementedError

    def noise_specs(self, method: str, batch: int) -> tuple[NoiseSpec, ...]:
        """Noise of a method for a batch of this size; by default none."""
        return ()

    def frozen(self) -> dict[str, np.ndarray]:
        """Arrays that are neither trained nor saved with the run; by default none."""
        return {}

    def frozen_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of what `frozen` gives, told without its files where that is possible."""
        return {name: array.shape for name, array in self.frozen().items()}

    def uses_frozen(self, method: str) -> bool:
        """Whether a mode takes what `frozen` gives; by default every one does."""
        return True

    def initial_buffers(self, seed: int) -> dict[str, np.ndarray]:
        """Initial values of arrays that a step changes without a gradient; by default none."""
        return {}

    def overwritten(self, buffers: Arrays, parameters: Arrays) -> Result:
        """Parameters, in canonical shapes, that follow from the buffers after a step; by default none."""
        return {}

    def loss(
        self, model: Any, batch: Arrays, noise: Arrays, scalars: Scalars, buffers: Arrays, frozen: Arrays
    ) -> tuple[Array, Result, Result]:
        """The objective (0-d), metrics, and new buffers."""
        raise NotImplementedError

    def train_step(
        self,
        trainer: Trainer,
        state: TrainState,
        batch: Arrays,
        noise: Arrays,
        scalars: Scalars,
        frozen: Arrays,
    ) -> tuple[TrainState, Result, Array]:
        """The plain step: one loss, one gradient, one update. Returns state, metrics and gradient norm."""

        objective = self._objective(self.loss, state, scalars, frozen)
        gradient, metrics, buffers = trainer.gradient(objective, state, batch, noise)
        state, norm = trainer.update(state, gradient, scalars)
        return trainer.keep_buffers(state, buffers), metrics, norm

    @staticmethod
    def _objective(
        loss: Callable[..., tuple[Array, Result, Result]], state: TrainState, scalars: Scalars, frozen: Arrays
    ) -> Objective:
        """A loss with the signature of `loss`, as a function of model, batch and noise."""
        return lambda model, batch, noise: loss(model, batch, noise, scalars, state.buffers, frozen)


def added(left: Mapping[str, Array], right: Mapping[str, Array]) -> Result:
    """Sums of metrics; those missing in `left` count as 0."""
    return {name: left[name] + value if name in left else value for name, value in right.items()}


def methods_of(hparams: Any) -> FamilyMethods:
    """The tensor code of the run's family, `FAMILY` in its module, perhaps through adapters."""
    module: Any = import_module(f"jax_impl.families.{hparams.run.family}")
    adapters: Any = import_module("jax_impl.families.lora")
    methods: FamilyMethods = adapters.with_adapters(module.FAMILY(hparams))
    return methods


def _fulfils(methods: FamilyMethods) -> contract.FamilyMethods[Array]:
    """For the type checker: the class fulfils the protocol."""
    return methods
