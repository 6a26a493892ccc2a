"""Building blocks of a family's training step: gradients, updates and means over the global batch."""

import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dioscuri.hparams.sections import Train
from dioscuri.plans.layout import Layout, spans
from torch_impl.devices import COMPUTE_DTYPES, Devices
from torch_impl.optim.flat import bind, gather, views, write
from torch_impl.optim.step import OptimizerState, Settings, masked_step, optimizer_step
from torch_impl.sharding import Gathered, ShardedModel

Tensors = Mapping[str, Tensor]
Metrics = dict[str, Tensor]
Buffers = dict[str, Tensor]
Objective = Callable[[Any, Tensors, Tensors], tuple[Tensor, Metrics, Buffers]]
"""From the model, a batch and its noise to a loss (0-d), metrics, new buffers: see `FamilyMethods.loss`."""


@dataclass
class TrainState:
    """The state that a step changes in place: the optimiser's state, sums of metrics followed by the
    number of steps, and buffers."""

    optimizer: OptimizerState
    metric_sums: Tensor
    buffers: Buffers


class _Watched(nn.Module):
    """The module wrapped by DDP; its forward is the function that a family differentiates."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, function: Callable[[nn.Module], tuple[Any, ...]]) -> tuple[Any, ...]:
        loss, *others = function(self.model)
        # DDP expects a gradient for every parameter that an output depends on.
        return loss, *_detached(others)


class Trainer:
    """Operations of a training step. The model's parameters become views of `weights`: the vector of
    parameters, or its copy in the precision of the computation."""

    def __init__(
        self,
        model: nn.Module,
        state: OptimizerState,
        layout: Layout,
        settings: Settings,
        devices: Devices,
        options: Train,
        sharded: ShardedModel | None = None,
    ) -> None:
        self.model, self.layout, self.settings, self.devices = model, layout, settings, devices
        self.accumulation_steps, self.sharded = options.accumulation_steps, sharded
        if sharded is None:
            self.weights = state.params.to(COMPUTE_DTYPES[options.precision])
            self.parameters = bind(model, self.weights, layout)
        self.grad = torch.zeros_like(state.params)
        self.grad_views = list(views(self.grad, layout).values())
        self.masks: dict[Any, Tensor] = {}
        self.step: Any = torch.compile(optimizer_step) if options.compile else optimizer_step
        several = devices.process_count > 1 and not sharded
        self.ddp = DistributedDataParallel(_Watched(model), find_unused_parameters=True) if several else None
        # Those of 1x1 kernels differ in the dimensions of size one, where strides mean nothing.
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        self.narrow = several and self.weights.dtype != state.params.dtype
        if self.ddp and self.narrow:
            self.ddp.register_comm_hook(None, self._add_mean)
        self._micro_batch_index = self._n_gradients = 0

    def gradient(
        self, objective: Objective, state: TrainState, batch: Tensors, noise: Tensors
    ) -> tuple[Tensor, Metrics, Buffers]:
        """Gradient (P,) of an objective's mean over the global batch, metrics and new buffers.

        The batch is computed in `train.accumulation_steps` micro-batches, one after the other.
        """

        def micro_batch(batch: Tensors, noise: Tensors) -> tuple[Metrics, Buffers]:
            metrics, buffers = self.add_gradient(lambda model: objective(model, batch, noise))
            return metrics, buffers

        del state
        metrics, buffers = self.over_micro_batches(micro_batch, batch, noise)
        return self.grad, metrics, buffers

    def add_gradient(self, function: Callable[[Any], tuple[Any, ...]], *, more: bool = False) -> Any:
        """Within `over_micro_batches`: add the gradient of a function of the model whose first result is the
        loss; returns the other results, detached.

        `more`: whether another gradient of this micro-batch follows.
        """
        last = self._micro_batch_index == self.accumulation_steps - 1 and not more
        if self.sharded is not None:
            loss, *others = self.sharded(function)
            (loss / self.accumulation_steps).backward()
        elif self.ddp is None:
            loss, *others = function(self.model)
            loss = loss / self.accumulation_steps
            grads = torch.autograd.grad(loss, self.parameters, materialize_grads=True)
            # Two kernel launches for all parameters; `backward` needs one for each.
            gather(self.grad_views, grads, accumulate=self._n_gradients > 0)
        else:
            if self.narrow and not self._n_gradients:
                self.grad.zero_()
            with nullcontext() if last or self.narrow else self.ddp.no_sync():
                loss, *others = self.ddp(function)
                (loss / self.accumulation_steps).backward()
            if self.narrow:
                self.ddp.zero_grad()
        self._n_gradients += 1
        if last:
            self._gather_processes()
        return tuple(_detached(others))

    def over_micro_batches(
        self,
        function: Callable[[Tensors, Tensors], tuple[Metrics, ...]],
        batch: Tensors,
        noise: Tensors,
    ) -> tuple[Metrics, ...]:
        """Means of the results of a function of a micro-batch over the micro-batches of a batch."""
        n = self.accumulation_steps
        micro_batches = zip(_micro_batches(batch, n), _micro_batches(noise, n), strict=True)
        totals: tuple[Metrics, ...] = ()
        self._n_gradients = 0
        for self._micro_batch_index, micro_batch in enumerate(micro_batches):
            results = function(*micro_batch)
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
        """Means of a function of model, batch and noise over the global batch, without gradient."""
        del state
        call = self.sharded or (lambda function: function(self.model))

        def micro_batch(batch: Tensors, noise: Tensors) -> tuple[Metrics]:
            return (call(lambda model: function(model, batch, noise)),)

        (means,) = self.over_micro_batches(micro_batch, batch, noise)
        return {name: self.over_processes(value) for name, value in means.items()}

    def over_processes(self, tensor: Tensor) -> Tensor:
        """Mean of the processes' tensors, in place and without gradient."""
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
        """One step of the optimiser with a gradient (P,), and the gradient's norm.

        `trained` selects parameters by name; it must be the same function in every step, since its results
        are cached. Only the `last` of several updates in one step is counted.
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
        """Set the buffers to the mean of the new ones over the processes, unless the update was skipped."""
        applied = state.optimizer.skips_in_row == 0
        for name, value in buffers.items():
            old = state.buffers[name]
            torch.where(applied, self.over_processes(value), old, out=old)
        return state

    def parameters_of(self, state: TrainState) -> Tensors:
        """Parameters under canonical names, in canonical shapes."""
        params = state.optimizer.params
        return Gathered(self.sharded.shares, params) if self.sharded else views(params, self.layout)

    @torch.no_grad()
    def overwrite(self, state: TrainState, values: Tensors) -> TrainState:
        """Replace parameters by these tensors, unless the update was skipped."""
        if values:
            if self.sharded:
                values = {name: self.sharded.shares.rows(name, value) for name, value in values.items()}
            params = state.optimizer.params
            applied = state.optimizer.skips_in_row == 0
            torch.where(applied, write(params, values, self.layout), params, out=params)
        return state

    def refresh(self, state: TrainState) -> None:
        """Convert all parameters at once if the model computes in another dtype, or gathers them from
        copies."""
        if self.sharded is not None:
            self.sharded.write(state.optimizer.params)
        elif self.weights.dtype != state.optimizer.params.dtype:
            self.weights.copy_(state.optimizer.params)

    def _gather_processes(self) -> None:
        """Write the gradient's mean over the processes to the vector."""
        if self.sharded is not None:
            gather(self.grad_views, self.sharded.gradients(), accumulate=False)
            return
        if self.ddp is None or self.narrow:
            return
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        gather(self.grad_views, grads, accumulate=False)
        self.ddp.zero_grad()

    def _add_mean(self, _: None, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
        """Add the mean of a bucket of bfloat16 gradients to the vector. DDP would add and average them in
        bfloat16, which loses digits."""
        views_of: dict[Tensor, Tensor] = dict(zip(self.parameters, self.grad_views, strict=True))
        buffer = bucket.buffer()
        wide = buffer.to(self.grad.dtype) / self.devices.process_count

        def add(future: torch.futures.Future[list[Tensor]]) -> Tensor:
            mean = future.value()[0]
            for parameter, gradient in zip(bucket.parameters(), bucket.gradients(), strict=True):
                # The buffer has the strides of the parameters; `gradients` claims that it is contiguous.
                offset = gradient.storage_offset() - buffer.storage_offset()
                views_of[parameter].add_(mean.as_strided(parameter.shape, parameter.stride(), offset))
            return buffer

        work: Any = dist.all_reduce(wide, async_op=True)
        averaged: torch.futures.Future[Tensor] = work.get_future().then(add)
        return averaged


def _detached(results: Any) -> list[Any]:
    """The results, detached from the graph."""
    return [
        result.detach()
        if isinstance(result, Tensor)
        else {name: value.detach() for name, value in result.items()}
        for result in results
    ]


def _micro_batches(tensors: Tensors, n: int) -> list[dict[str, Tensor]]:
    """Split tensors (B, ...) into n micro-batches."""
    pieces = {name: tensor.chunk(n) for name, tensor in tensors.items()}
    return [{name: piece[i] for name, piece in pieces.items()} for i in range(n)]
