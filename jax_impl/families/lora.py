"""A family whose transformer is trained through low-rank adapters: parameters are those of the adapters
alone, and the base model's weights are among the frozen arrays."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax import Array

from dioscuri.checkpoint.base_model import base_weights
from dioscuri.engine import is_mode
from dioscuri.hparams.adapters import LoRA
from dioscuri.plans import lora
from dioscuri.plans.noise import NoiseSpec
from jax_impl.devices import COMPUTE_DTYPES
from jax_impl.families.methods import Arrays, FamilyMethods, Result, Scalars
from jax_impl.layers.lora import adapt, set_masks
from jax_impl.optim.flat import canonical_name, memory_axes
from jax_impl.trainer import Trainer, TrainState


class LoRAMethods(FamilyMethods):
    """See `dioscuri.contract.FamilyMethods`; `family` has the methods of the whole network."""

    def __init__(self, family: Any) -> None:
        self.family, self.hparams = family, family.hparams
        self.options, self.base_shapes = family.hparams.lora, family.parameter_shapes()
        self.table = lora.adapter_table(self.base_shapes, self.options.rank, self.options.targets)
        self.weight_decay, self.metric_sizes = family.weight_decay, family.metric_sizes
        self.switches = family.switches

    def __getattr__(self, name: str) -> Any:
        """An attribute of the family; its modes get the completed model."""
        value = getattr(self.__dict__["family"], name)
        return partial(self._completed, value) if is_mode(value) else value

    def build(self) -> nnx.Module:
        """The network with adapters. Its other parameters have values when `complete` has set them."""
        layers = lora.layers_with_adapters(self.base_shapes, self.options.targets)
        model: nnx.Module = adapt(self.family.build(), layers, self.options)
        return model

    def noise_specs(self, method: str, batch: int, **options: Any) -> tuple[NoiseSpec, ...]:
        """Noise of a method, with that of the adapters' dropout in training."""
        specs: tuple[NoiseSpec, ...] = self.family.noise_specs(method, batch, **options)
        return (*specs, *lora.adapter_noise(self.hparams, self.base_shapes, method, batch))

    def frozen(self) -> dict[str, np.ndarray]:
        """The family's frozen arrays, and the base model's weights as the network holds them."""
        weights = base_weights(self.hparams, self.base_shapes)
        return self.family.frozen() | {
            lora.BASE + canonical_name(path): _as_held(path, weights[canonical_name(path)], leaf.shape)
            for path, leaf in self._base_leaves()
        }

    def frozen_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of what `frozen` gives, told without the base model."""
        held = {lora.BASE + canonical_name(path): leaf.shape for path, leaf in self._base_leaves()}
        return self.family.frozen_shapes() | held

    def loss(
        self, model: Any, batch: Arrays, noise: Arrays, scalars: Scalars, buffers: Arrays, frozen: Arrays
    ) -> tuple[Array, Result, Result]:
        """The objective (0-d), metrics, and new buffers."""
        completed = self.complete(model, noise, frozen)
        result: tuple[Array, Result, Result] = self.family.loss(
            completed, batch, noise, scalars, buffers, lora.of_family(frozen)
        )
        return result

    def train_step(
        self,
        trainer: Trainer,
        state: TrainState,
        batch: Arrays,
        noise: Arrays,
        scalars: Scalars,
        frozen: Arrays,
    ) -> tuple[TrainState, Result, Array]:
        """The family's step on the adapters."""
        completing: Any = CompletingTrainer(trainer, lambda model, noise: self.complete(model, noise, frozen))
        result: tuple[TrainState, Result, Array] = self.family.train_step(
            completing, state, batch, noise, scalars, lora.of_family(frozen)
        )
        return result

    def complete(self, model: Any, noise: Arrays, frozen: Arrays) -> Any:
        """The model with the base's weights, in the precision of the computation, and with the dropout of
        these rows, if there is noise for it."""
        dtype = COMPUTE_DTYPES[self.hparams.train.precision]
        parts: Any = nnx.split(model, nnx.LoRAParam, nnx.Param, ...)
        graph, adapters, base, rest = parts
        weights = [
            frozen[lora.BASE + canonical_name(path)].astype(dtype) for path, _ in nnx.to_flat_state(base)
        ]
        base = jax.tree.unflatten(jax.tree.structure(base), weights)
        completed = nnx.merge(graph, adapters, base, rest)
        set_masks(completed, noise, self.options.dropout)
        return completed

    def _base_leaves(self) -> list[tuple[tuple[Any, ...], Any]]:
        parts: Any = nnx.split(nnx.eval_shape(self.build), nnx.LoRAParam, nnx.Param, ...)
        return list(nnx.to_flat_state(parts[2]))

    def _completed(
        self,
        function: Any,
        model: Any,
        batch: Arrays,
        noise: Mapping[str, Any],
        frozen: Arrays,
        **options: Any,
    ) -> Result:
        """A mode of the family."""
        completed = self.complete(model, {}, frozen)
        result: Result = function(completed, batch, noise, lora.of_family(frozen), **options)
        return result


class CompletingTrainer:
    """A trainer whose functions get the model that `complete` returns for a micro-batch's noise."""

    def __init__(self, trainer: Trainer, complete: Callable[[Any, Arrays], Any]) -> None:
        self.trainer, self.complete = trainer, complete
        self.noise: Arrays = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["trainer"], name)

    def gradient(self, objective: Any, state: TrainState, batch: Arrays, noise: Arrays) -> Any:
        """See `Trainer.gradient`."""
        return self.trainer.gradient(self._completing(objective), state, batch, noise)

    def mean(self, function: Any, state: TrainState, batch: Arrays, noise: Arrays) -> Any:
        """See `Trainer.mean`."""
        return self.trainer.mean(self._completing(function), state, batch, noise)

    def over_micro_batches(self, function: Any, batch: Arrays, noise: Arrays) -> Any:
        """See `Trainer.over_micro_batches`."""

        def noted(batch: Arrays, noise: Arrays) -> Any:
            self.noise = noise
            return function(batch, noise)

        return self.trainer.over_micro_batches(noted, batch, noise)

    def gradient_of(self, function: Any, state: TrainState) -> Any:
        """See `Trainer.gradient_of`."""
        return self.trainer.gradient_of(lambda model: function(self.complete(model, self.noise)), state)

    def _completing(self, function: Any) -> Any:
        return lambda model, batch, noise: function(self.complete(model, noise), batch, noise)


def build_network(methods: Any, options: LoRA | None) -> Any:
    """The whole network of a family, with adapters if there are options for them."""
    model = methods.build()
    if options is None:
        return model
    return adapt(model, lora.layers_with_adapters(methods.parameter_shapes(), options.targets), options)


def with_adapters(methods: Any) -> LoRAMethods | Any:
    """The methods of a run: through adapters, if `lora.rank` asks for them."""
    return LoRAMethods(methods) if lora.adapters_of(methods.hparams) else methods


def _as_held(path: tuple[Any, ...], array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A canonical tensor in the layout of the network's parameter."""
    return array.transpose(memory_axes(str(path[-1]), array.ndim)).reshape(shape)
