"""A family whose transformer is trained through low-rank adapters: parameters are those of the adapters
alone, and the base model's weights are among the frozen tensors."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor, nn

from dioscuri.checkpoint.base_model import base_weights
from dioscuri.engine import is_mode
from dioscuri.hparams.adapters import LoRA
from dioscuri.plans import lora
from dioscuri.plans.noise import NoiseSpec
from torch_impl.devices import COMPUTE_DTYPES
from torch_impl.families.methods import FamilyMethods, Result, Scalars, Tensors
from torch_impl.layers.lora import adapt, set_masks
from torch_impl.trainer import Trainer, TrainState


class LoRAMethods(FamilyMethods):
    """See `dioscuri.contract.FamilyMethods`; `family` has the methods of the whole network."""

    def __init__(self, family: Any) -> None:
        self.family, self.hparams = family, family.hparams
        self.options, self.base_shapes = family.hparams.lora, family.parameter_shapes()
        self.table = lora.adapter_table(self.base_shapes, self.options.rank, self.options.targets)
        self.weight_decay, self.metric_sizes = family.weight_decay, family.metric_sizes
        self.switches = family.switches
        self.bound: dict[str, nn.Parameter] = {}

    def __getattr__(self, name: str) -> Any:
        """An attribute of the family; its modes get the completed model."""
        value = getattr(self.__dict__["family"], name)
        return partial(self._completed, value) if is_mode(value) else value

    def build(self) -> nn.Module:
        """The network with adapters. Its other parameters are empty until `complete` sets them."""
        layers = lora.layers_with_adapters(self.base_shapes, self.options.targets)
        model: nn.Module = adapt(self.family.build(), layers, self.options)
        for parameter in model.parameters():
            if not parameter.requires_grad:
                parameter.data = parameter.new_empty(0)
        return model

    def regions(self, model: Any) -> list[nn.Module]:
        """Modules of the model that are compiled separately."""
        regions: list[nn.Module] = self.family.regions(model)
        return regions

    def noise_specs(self, method: str, batch: int, **options: Any) -> tuple[NoiseSpec, ...]:
        """Noise of a method, with that of the adapters' dropout in training."""
        specs: tuple[NoiseSpec, ...] = self.family.noise_specs(method, batch, **options)
        return (*specs, *lora.adapter_noise(self.hparams, self.base_shapes, method, batch))

    def frozen(self) -> dict[str, np.ndarray]:
        """The family's frozen tensors, and the base model's weights."""
        weights = base_weights(self.hparams, self.base_shapes)
        return self.family.frozen() | {lora.BASE + name: array for name, array in weights.items()}

    def frozen_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of what `frozen` gives, told without the base model."""
        return self.family.frozen_shapes() | {lora.BASE + name: s for name, s in self.base_shapes.items()}

    def loss(
        self, model: Any, batch: Tensors, noise: Tensors, scalars: Scalars, buffers: Tensors, frozen: Tensors
    ) -> tuple[Tensor, Result, Result]:
        """The objective (0-d), metrics, and new buffers."""
        completed = self.complete(model, noise, frozen)
        result: tuple[Tensor, Result, Result] = self.family.loss(
            completed, batch, noise, scalars, buffers, lora.of_family(frozen)
        )
        return result

    def train_step(
        self,
        trainer: Trainer,
        state: TrainState,
        batch: Tensors,
        noise: Tensors,
        scalars: Scalars,
        frozen: Tensors,
    ) -> tuple[TrainState, Result, Tensor]:
        """The family's step on the adapters."""
        completing: Any = CompletingTrainer(trainer, lambda model, noise: self.complete(model, noise, frozen))
        result: tuple[TrainState, Result, Tensor] = self.family.train_step(
            completing, state, batch, noise, scalars, lora.of_family(frozen)
        )
        return result

    def complete(self, model: Any, noise: Tensors, frozen: Tensors) -> Any:
        """The model with the base's weights, in the precision of the computation, and with the dropout of
        these rows, if there is noise for it."""
        first = next(iter(self.base_shapes))
        if not self.bound or self.bound[first].device != frozen[lora.BASE + first].device:
            dtype = COMPUTE_DTYPES[self.hparams.train.precision]
            self.bound = {
                name: nn.Parameter(frozen[lora.BASE + name].to(dtype), requires_grad=False)
                for name in self.base_shapes
            }
        if model.get_parameter(first) is not self.bound[first]:
            for name, parameter in self.bound.items():
                owner, _, leaf = name.rpartition(".")
                setattr(model.get_submodule(owner), leaf, parameter)
        set_masks(model, noise, self.options.dropout)
        return model

    def _completed(
        self,
        function: Any,
        model: Any,
        batch: Tensors,
        noise: Mapping[str, Any],
        frozen: Tensors,
        **options: Any,
    ) -> Result:
        """A mode of the family."""
        completed = self.complete(model, {}, frozen)
        result: Result = function(completed, batch, noise, lora.of_family(frozen), **options)
        return result


class CompletingTrainer:
    """A trainer whose functions get the model that `complete` returns for a micro-batch's noise."""

    def __init__(self, trainer: Trainer, complete: Callable[[Any, Tensors], Any]) -> None:
        self.trainer, self.complete = trainer, complete
        self.noise: Tensors = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["trainer"], name)

    def gradient(self, objective: Any, state: TrainState, batch: Tensors, noise: Tensors) -> Any:
        """See `Trainer.gradient`."""
        return self.trainer.gradient(self._completing(objective), state, batch, noise)

    def mean(self, function: Any, state: TrainState, batch: Tensors, noise: Tensors) -> Any:
        """See `Trainer.mean`."""
        return self.trainer.mean(self._completing(function), state, batch, noise)

    def over_micro_batches(self, function: Any, batch: Tensors, noise: Tensors) -> Any:
        """See `Trainer.over_micro_batches`."""

        def noted(batch: Tensors, noise: Tensors) -> Any:
            self.noise = noise
            return function(batch, noise)

        return self.trainer.over_micro_batches(noted, batch, noise)

    def add_gradient(self, function: Any, *, more: bool = False) -> Any:
        """See `Trainer.add_gradient`."""
        return self.trainer.add_gradient(lambda model: function(self.complete(model, self.noise)), more=more)

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
