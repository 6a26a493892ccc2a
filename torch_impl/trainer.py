"""Building blocks of a family's training step: gradients, updates, means over the global batch."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dioscuri.hparams.sections import Train
from dioscuri.plans.layout import Layout, spans
from torch_impl.devices import COMPUTE_DTYPES, Devices
from torch_impl.optim.flat import bind, gather, views, write
from torch_impl.optim.step import OptimizerState, Settings, masked_step, optimizer_step

Tensors = Mapping[str, Tensor]
Metrics = dict[str, Tensor]
Buffers = dict[str, Tensor]
Objective = Callable[[Any, Tensors, Tensors], tuple[Tensor, Metrics, Buffers]]
"""From the model, a batch and its noise to a loss (0-d), metrics, new buffers: see `FamilyMethods.loss`."""


@dataclass
class TrainState:
    """What a step changes, in place: the optimiser's state, sums of metrics and number of their steps,
    buffers."""

    optimizer: OptimizerState
    metric_sums: Tensor
    buffers: Buffers


class _Watched(nn.Module):
    """The module that DDP watches: its forward is whatever a family differentiates."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, function: Callable[[nn.Module], tuple[Any, ...]]) -> tuple[Any, ...]:
        loss, *others = function(self.model)
        # DDP waits for the gradient of whatever an output depends on.
        return loss, *_detached(others)


class Trainer:
    """Means of a training step. The model's parameters become views of `weights`: the vector of parameters
    itself, or its copy in the arithmetic's type."""

    def __init__(
        self,
        model: nn.Module,
        state: OptimizerState,
        layout: Layout,
        settings: Settings,
        devices: Devices,
        options: Train,
    ) -> None:
        self.model, self.layout, self.settings, self.devices = model, layout, settings, devices
        self.accumulation_steps = options.accumulation_steps
        self.weights = state.params.to(COMPUTE_DTYPES[options.precision])
        self.parameters = bind(model, self.weights, layout)
        self.grad = torch.zeros_like(state.params)
        self.grad_views = list(views(self.grad, layout).values())
        self.masks: dict[Any, Tensor] = {}
        self.step: Any = torch.compile(optimizer_step) if options.compile else optimizer_step
        # DDP adds and averages gradients in the parameters' type, which in bfloat16 would lose digits: there,
        # as in a single process, they are gathered in the vector.
        several = devices.process_count > 1 and self.weights.dtype == state.params.dtype
        self.ddp = DistributedDataParallel(_Watched(model), find_unused_parameters=True) if several else None
        self._part = self._n_gradients = 0

    def gradient(
        self, objective: Objective, state: TrainState, batch: Tensors, noise: Tensors
    ) -> tuple[Tensor, Metrics, Buffers]:
        """Gradient (P,) of an objective's mean over the global batch, metrics and new buffers.

        `train.accumulation_steps` parts of the batch are computed one after the other.
        """

        def part(batch: Tensors, noise: Tensors) -> tuple[Metrics, Buffers]:
            metrics, buffers = self.add_gradient(lambda model: objective(model, batch, noise))
            return metrics, buffers

        del state
        metrics, buffers = self.over_parts(part, batch, noise)
        return self.grad, metrics, buffers

    def add_gradient(self, function: Callable[[Any], tuple[Any, ...]], *, more: bool = False) -> Any:
        """Within `over_parts`: add the gradient of a function of the model, whose first result is the loss.

        Returns the other results, detached. `more`: the same part has another gradient to come.
        """
        last = self._part == self.accumulation_steps - 1 and not more
        if self.ddp is None:
            loss, *others = function(self.model)
            loss = loss / self.accumulation_steps
            grads = torch.autograd.grad(loss, self.parameters, materialize_grads=True)
            # Two launches for all parameters, where `backward` adds to each one's `grad` by itself.
            gather(self.grad_views, grads, accumulate=self._n_gradients > 0)
        else:
            with nullcontext() if last else self.ddp.no_sync():
                loss, *others = self.ddp(function)
                (loss / self.accumulation_steps).backward()
        self._n_gradients += 1
        if last:
            self._gather_processes()
        return tuple(_detached(others))

    def over_parts(
        self,
        function: Callable[[Tensors, Tensors], tuple[Metrics, ...]],
        batch: Tensors,
        noise: Tensors,
    ) -> tuple[Metrics, ...]:
        """Means over the parts of a batch of the tensors that a function of a part gives."""
        n = self.accumulation_steps
        parts = zip(_parts(batch, n), _parts(noise, n), strict=True)
        totals: tuple[Metrics, ...] = ()
        self._n_gradients = 0
        for self._part, part in enumerate(parts):
            results = function(*part)
            totals = tuple(
                {name: total.get(name, 0) + value / n for name, value in result.items()}
                for total, result in zip(totals or tuple({} for _ in results), results, strict=True)
            )
        return totals

    @torch.no_grad()
    def mean(
        self,
        function: Callable[[Any, Tensors, Tensors], Metrics],
        state: TrainState,
        batch: Tensors,
        noise: Tensors,
    ) -> Metrics:
        """Means over the global batch of a function of model, batch and noise; not differentiated."""
        del state
        (means,) = self.over_parts(lambda *part: (function(self.model, *part),), batch, noise)
        return {name: self.over_processes(value) for name, value in means.items()}

    def over_processes(self, tensor: Tensor) -> Tensor:
        """Mean of the processes' tensors, in place; not differentiated."""
        return self.devices.mean(tensor.detach())

    def update(
        self,
        state: TrainState,
        gradient: Tensor,
        scalars: Mapping[str, Any],
        trained: Callable[[str], bool] | None = None,
        *,
        last: bool = True,
    ) -> tuple[TrainState, Tensor]:
        """One step of the optimiser by a gradient (P,), and the gradient's norm.

        `trained` chooses parameters by name: one function for all steps, whose answers are kept. Of several
        updates in one step the `last` one counts.
        """
        rates = scalars["learning_rate"], scalars["ema_rate"]
        if trained is None:
            return state, self.step(state.optimizer, gradient, *rates, settings=self.settings)
        if trained not in self.masks:
            runs = [torch.full((n,), chosen) for n, chosen in spans(self.layout, trained)]
            self.masks[trained] = torch.cat(runs).to(self.devices.device)
        mask = self.masks[trained]
        norm = masked_step(state.optimizer, gradient, *rates, self.settings, mask, last=last)
        self.refresh(state)
        return state, norm

    @torch.no_grad()
    def keep_buffers(self, state: TrainState, buffers: Tensors) -> TrainState:
        """Take over new buffers, their mean over the processes, unless the update was skipped."""
        applied = state.optimizer.skips_in_row == 0
        for name, value in buffers.items():
            old = state.buffers[name]
            torch.where(applied, self.over_processes(value), old, out=old)
        return state

    def parameters_of(self, state: TrainState) -> dict[str, Tensor]:
        """Parameters under canonical names, in canonical shapes."""
        return views(state.optimizer.params, self.layout)

    @torch.no_grad()
    def overwrite(self, state: TrainState, values: Tensors) -> TrainState:
        """Put tensors in the place of parameters, unless the update was skipped."""
        if values:
            params = state.optimizer.params
            applied = state.optimizer.skips_in_row == 0
            torch.where(applied, write(params, values, self.layout), params, out=params)
        return state

    def refresh(self, state: TrainState) -> None:
        """Convert the parameters at once where the model computes in another type."""
        if self.weights.dtype != state.optimizer.params.dtype:
            self.weights.copy_(state.optimizer.params)

    def _gather_processes(self) -> None:
        """Bring the mean over the processes into the vector."""
        if self.ddp is None:
            self.devices.mean(self.grad)
            return
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        gather(self.grad_views, grads, accumulate=False)
        self.ddp.zero_grad()


def _detached(results: Any) -> list[Any]:
    """The same results without their graphs."""
    return [
        result.detach()
        if isinstance(result, Tensor)
        else {name: value.detach() for name, value in result.items()}
        for result in results
    ]


def _parts(tensors: Tensors, n: int) -> list[dict[str, Tensor]]:
    """Split tensors along the batch."""
    pieces = {name: tensor.chunk(n) for name, tensor in tensors.items()}
    return [{name: piece[i] for name, piece in pieces.items()} for i in range(n)]
