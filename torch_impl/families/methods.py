"""Defaults of a family's tensor code, except its model, loss and modes."""
# ruff: noqa: ARG002 - arguments for families that override these methods

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch._functorch import config as functorch_config

from dioscuri import contract
from dioscuri.plans.noise import NoiseSpec
from dioscuri.plans.parameters import initial_values, shapes
from torch_impl.sharding import blocks_of
from torch_impl.trainer import Objective, Trainer, TrainState

Tensors = Mapping[str, Tensor]
Scalars = Mapping[str, Any]
Result = dict[str, Tensor]

_PROGRAMS_PER_REGION = 8
"""With and without gradients, for batches of several sizes."""


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

    def build(self) -> nn.Module:
        """The model; its parameters need not be initialised."""
        raise NotImplementedError

    def regions(self, model: Any) -> list[nn.Module]:
        """Modules of the model that are compiled separately."""
        return [model]

    def compile(self, model: Any) -> None:
        """Compile the regions of a model, in place."""
        from torch._dynamo import config as dynamo_config  # noqa: PLC0415 - it is slow, and changes settings

        # Pickling an entry of this cache can crash (torch 2.13): `_unsafe_view_ViewMeta` in
        # ATen/FunctionalizeFallbackKernel.h returns its sizes as a reference to a temporary. Inductor's
        # cache, which saves later starts the C++ or Triton compiler, stays on.
        functorch_config.enable_autograd_cache = False
        regions = self.regions(model)
        # Blocks share one function, whose programs are limited to 8 by default: later blocks of other shapes
        # would silently run uncompiled.
        limit = _PROGRAMS_PER_REGION * len(regions)
        dynamo_config.recompile_limit = max(dynamo_config.recompile_limit, limit)
        dynamo_config.accumulated_recompile_limit = max(dynamo_config.accumulated_recompile_limit, limit)
        for region in regions:
            region.compile()

    def blocks(self, model: Any) -> list[nn.Module]:
        """Modules whose parameters several processes gather one after the other; all else is gathered at
        once. They are called as modules, and no gradient is differentiated again."""
        return blocks_of(model)

    def noise_specs(self, method: str, batch: int) -> tuple[NoiseSpec, ...]:
        """Noise of a method for a batch of this size; by default none."""
        return ()

    def frozen(self) -> dict[str, np.ndarray]:
        """Tensors that are neither trained nor saved with the run; by default none."""
        return {}

    def frozen_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of what `frozen` gives, told without its files where that is possible."""
        return {name: array.shape for name, array in self.frozen().items()}

    def uses_frozen(self, method: str) -> bool:
        """Whether a mode takes what `frozen` gives; by default every one does."""
        return True

    def initial_buffers(self, seed: int) -> dict[str, np.ndarray]:
        """Initial values of tensors that a step changes without a gradient; by default none."""
        return {}

    def overwritten(self, buffers: Tensors, parameters: Tensors) -> Result:
        """Parameters, in canonical shapes, that follow from the buffers after a step; by default none."""
        return {}

    def loss(
        self, model: Any, batch: Tensors, noise: Tensors, scalars: Scalars, buffers: Tensors, frozen: Tensors
    ) -> tuple[Tensor, Result, Result]:
        """The objective (0-d), metrics, and new buffers."""
        raise NotImplementedError

    def train_step(
        self,
        trainer: Trainer,
        state: TrainState,
        batch: Tensors,
        noise: Tensors,
        scalars: Scalars,
        frozen: Tensors,
    ) -> tuple[TrainState, Result, Tensor]:
        """The plain step: one loss, one gradient, one update. Returns state, metrics and gradient norm."""

        objective = self._objective(self.loss, state, scalars, frozen)
        gradient, metrics, buffers = trainer.gradient(objective, state, batch, noise)
        state, norm = trainer.update(state, gradient, scalars)
        return trainer.keep_buffers(state, buffers), metrics, norm

    @staticmethod
    def _objective(
        loss: Callable[..., tuple[Tensor, Result, Result]],
        state: TrainState,
        scalars: Scalars,
        frozen: Tensors,
    ) -> Objective:
        """A loss with the signature of `loss`, as a function of model, batch and noise."""
        return lambda model, batch, noise: loss(model, batch, noise, scalars, state.buffers, frozen)


def added(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> Result:
    """Sums of metrics; those missing in `left` count as 0."""
    return {name: left[name] + value if name in left else value for name, value in right.items()}


def methods_of(hparams: Any) -> FamilyMethods:
    """The tensor code of the run's family, `FAMILY` in its module, perhaps through adapters."""
    module: Any = import_module(f"torch_impl.families.{hparams.run.family}")
    adapters: Any = import_module("torch_impl.families.lora")
    methods: FamilyMethods = adapters.with_adapters(module.FAMILY(hparams))
    return methods


def _fulfils(methods: FamilyMethods) -> contract.FamilyMethods[Tensor]:
    """For the type checker: the class fulfils the protocol."""
    return methods
