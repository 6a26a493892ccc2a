"""The engine of the PyTorch twin: `dioscuri.engine.Engine` over a family's tensor functions."""

from collections.abc import Hashable, Mapping
from dataclasses import fields
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dioscuri.engine import Array, Batch, Noise, State
from dioscuri.engine_support import (
    metric_names,
    mode,
    padded_rows,
    split_arguments,
    take_prefixed,
    with_ema_rate,
)
from dioscuri.errors import UserError
from dioscuri.plans.layout import check_shapes, pack, spans, unpack
from torch_impl.devices import COMPUTE_DTYPES, open_devices, set_precision
from torch_impl.families.methods import methods_of
from torch_impl.noise import STREAMS, draw_noise
from torch_impl.optim.flat import bind, flat_layout, gather, views, write
from torch_impl.optim.step import OptimizerState, Settings, optimizer_step, turn_step
from torch_impl.replay import Replay

COUNTERS = ("updates", "skips", "skips_in_row")


class Engine:
    """Trains and runs the family `run.family` on the devices that `run.num_gpus` asks for."""

    name = "torch"

    def __init__(self, hparams: Any) -> None:
        self.hparams = hparams
        set_precision(hparams.train.precision)
        self.devices = open_devices(hparams.run.num_gpus)
        self.process_index, self.process_count = self.devices.process_index, self.devices.process_count
        self.device_count = self.devices.device_count
        self.dtype = torch.float64 if hparams.train.precision == "float64" else torch.float32
        self.family = methods_of(hparams)
        self.models = {ema: self._build() for ema in (False, True)}
        self.layout = flat_layout(self.models[False], self.family.parameter_shapes(), self.family.decayed)
        train = hparams.train
        self.settings = Settings.make(hparams.optimizer, self.family.weight_decay, self.layout.n_decayed)
        self.metric_names = metric_names(self.family.metric_sizes)
        self.update = self._update_function()
        self.masks: dict[Hashable, Tensor] = {}
        self.replay = Replay(train.compile and self.devices.device.type == "cuda" and self.process_count == 1)
        self.frozen = self._placed(self.family.frozen())
        self.buffers = self._placed(self.family.initial_buffers(hparams.run.seed))
        self._set_state(
            OptimizerState.start(torch.zeros(self.layout.size, dtype=self.dtype, device=self.devices.device))
        )

    def initialise(self) -> None:
        """Create parameters, their average, buffers and the optimiser's state."""
        seed = self.hparams.run.seed
        self._set_state(OptimizerState.start(self._vector(self.family.initial_parameters(seed))))
        self._set_buffers(self.family.initial_buffers(seed))

    def train_step(
        self, batch: Batch, step: int, scalars: Mapping[str, float], noise: Noise | None = None
    ) -> None:
        """One update on this process's share of the global batch."""
        n_parts = self.hparams.train.accumulation_steps
        rows = len(next(iter(batch.values())))
        if rows % n_parts:
            raise UserError(
                f"[train] batch_size {rows * self.process_count} must be a multiple of devices x parts, "
                f"{self.device_count} x {n_parts}"
            )
        pictures = {name: self.devices.place(array) for name, array in batch.items()}
        drawn = self._noise("train_step", rows, step, noise)
        phase, balanced = self.family.phase(scalars), self.family.balances(scalars)
        scalars = with_ema_rate(scalars, self.hparams.train.ema_decay)
        names, values = list(scalars), torch.tensor(list(scalars.values()), dtype=self.dtype)
        inputs = {
            "values": values.to(self.devices.device, non_blocking=True),
            **_prefixed("batch.", pictures),
        }
        device_step = partial(self._device_step, names=names, n_parts=n_parts, phase=phase, balanced=balanced)
        self.replay(device_step, inputs | _prefixed("noise.", drawn), key=(phase, balanced, rows))

    def fetch_metrics(self) -> dict[str, float]:
        """Means since the last call, and the counters of skipped and applied updates."""
        state, sums = self.state, self.devices.mean(self.metric_sums.clone()).cpu().numpy()
        with np.errstate(invalid="ignore"):
            metrics = dict(zip(self.metric_names, (sums[:-1] / sums[-1]).tolist(), strict=True))
        self.metric_sums.zero_()
        metrics |= {
            "skips": int(state.skips),
            "updates": int(state.updates),
            "skips_in_row": int(state.longest_row),
        }
        state.longest_row.copy_(state.skips_in_row)
        return metrics

    @torch.no_grad()
    def run(
        self,
        method: str,
        batch: Batch,
        *,
        ema: bool,
        step: int,
        noise: Noise | None = None,
        **arguments: Any,
    ) -> dict[str, Array]:
        """Run a family's method on the global batch, each process its rows; repetition fills batches."""
        function = mode(self.family, method)
        options, numbers = split_arguments(arguments)
        n = len(next(iter(batch.values())))
        rows = padded_rows(n, self.device_count)
        arrays = {name: self.devices.place(self.devices.share(array[rows])) for name, array in batch.items()}
        given = noise and {name: self.devices.share(np.asarray(array)[rows]) for name, array in noise.items()}
        drawn = self._noise(method, len(rows) // self.process_count, step, given, **options)
        model = self._current(ema=ema)
        results = function(model, arrays, drawn, self.frozen, **self._tensors(numbers), **options)
        return {name: self.devices.to_numpy(value)[:n] for name, value in results.items()}

    def barrier(self) -> None:
        """Wait until every process has come here."""
        self.devices.barrier()

    def state_to_numpy(self) -> State:
        """`model`, `ema`, `optimizer` tensors under canonical names, `counters`, and `buffers` if any."""
        vectors = {
            name: getattr(self.state, name).cpu().numpy() for name in ("params", "ema", "first", "second")
        }
        moments = unpack(vectors["first"], self.layout, "exp_avg.")
        moments |= unpack(vectors["second"], self.layout, f"{self.settings.rule.second}.")
        counters = {name: np.asarray(getattr(self.state, name).item(), np.int64) for name in COUNTERS}
        state = {
            "model": unpack(vectors["params"], self.layout),
            "ema": unpack(vectors["ema"], self.layout),
            "optimizer": moments,
            "counters": counters,
        }
        buffers = {name: tensor.cpu().numpy().copy() for name, tensor in self.buffers.items()}
        return state | ({"buffers": buffers} if buffers else {})

    def state_from_numpy(self, state: State) -> None:
        """Load a state; without `ema` or `optimizer` the average begins as a copy, the optimiser afresh."""
        loaded = OptimizerState.start(self._vector(state["model"]))
        if "ema" in state:
            loaded.ema = self._vector(state["ema"])
        if "optimizer" in state:
            moments = dict(state["optimizer"])
            loaded.first = self._vector(take_prefixed(moments, "exp_avg."))
            loaded.second = self._vector(take_prefixed(moments, f"{self.settings.rule.second}."))
            if moments:
                raise UserError(
                    f"[optimizer] type {self.hparams.optimizer.type} has no tensor '{next(iter(moments))}'"
                )
        for name, value in state.get("counters", {}).items():
            getattr(loaded, name).fill_(int(value))
        loaded.longest_row.copy_(loaded.skips_in_row)
        self._set_state(loaded)
        self._set_buffers(state.get("buffers", self.family.initial_buffers(self.hparams.run.seed)))

    def _build(self) -> torch.nn.Module:
        model = self.family.build().to(self.devices.device, self.dtype)
        if self.hparams.train.compile:
            for region in self.family.regions(model):
                region.compile()
        return model

    def _update_function(self) -> Any:
        update = partial(optimizer_step, settings=self.settings)
        return torch.compile(update) if self.hparams.train.compile else update

    def _placed(self, arrays: Mapping[str, Array]) -> dict[str, Tensor]:
        return {
            name: torch.tensor(array, dtype=self.dtype, device=self.devices.device)
            for name, array in arrays.items()
        }

    def _set_buffers(self, arrays: Mapping[str, Array]) -> None:
        check_shapes(arrays, {name: tuple(tensor.shape) for name, tensor in self.buffers.items()})
        for name, tensor in self._placed(arrays).items():
            self.buffers[name].copy_(tensor)

    def _vector(self, arrays: Mapping[str, Array]) -> Tensor:
        numpy_dtype = np.float64 if self.dtype == torch.float64 else np.float32
        return torch.from_numpy(pack(arrays, self.layout, numpy_dtype)).to(self.devices.device)

    def _set_state(self, state: OptimizerState) -> None:
        """Take over a state's values; vectors that exist keep their memory, which modules and replays point
        to."""
        if hasattr(self, "state"):
            for field in fields(OptimizerState):
                getattr(self.state, field.name).copy_(getattr(state, field.name))
            self.metric_sums.zero_()
            return
        self.state = state
        dtype = COMPUTE_DTYPES[self.hparams.train.precision]
        self.weights = {False: state.params.to(dtype), True: state.ema.to(dtype)}
        self.parameters = bind(self.models[False], self.weights[False], self.layout)
        bind(self.models[True], self.weights[True], self.layout)
        self.grad = torch.zeros_like(state.params)
        self.grad_views = list(views(self.grad, self.layout).values())
        self.metric_sums = torch.zeros(
            len(self.metric_names) + 1, dtype=self.dtype, device=self.devices.device
        )

    def _noise(
        self, method: str, rows: int, step: int, given: Noise | None, **options: Any
    ) -> dict[str, Tensor]:
        if given is not None:
            return {name: self.devices.place(array, self.dtype) for name, array in given.items()}
        key = (self.hparams.run.seed, STREAMS[method], step, self.process_index)
        return draw_noise(
            self.family.noise_specs(method, rows, **options), key, self.devices.device, self.dtype
        )

    def _current(self, *, ema: bool) -> torch.nn.Module:
        """The model whose weights are the parameters or their average, converted at once where it computes in
        bfloat16."""
        weights, vector = self.weights[ema], self.state.ema if ema else self.state.params
        if weights.dtype != vector.dtype:
            weights.copy_(vector)
        return self.models[ema]

    def _device_step(
        self,
        inputs: Mapping[str, Tensor],
        names: list[str],
        n_parts: int,
        phase: Hashable,
        balanced: bool,
    ) -> None:
        """Everything of a training step that runs on the device, in place and without waiting for it."""
        scalars = dict(zip(names, inputs["values"].unbind(), strict=True))
        *earlier, last = self.family.turns(phase)
        totals: dict[str, Tensor] = {}
        for turn in earlier:
            found, buffers = self._gradient(inputs, scalars, n_parts, turn, balanced)
            self._turn(turn, scalars, last=False)
            self._keep_buffers(buffers, assign=False)
            totals = {name: totals.get(name, 0) + found[name] for name in self.family.metric_sizes}
        found, buffers = self._gradient(inputs, scalars, n_parts, last, balanced)
        if earlier:
            norm = self._turn(last, scalars, last=True)
        else:
            norm = self.update(self.state, self.grad, scalars["learning_rate"], scalars["ema_rate"])
        self._keep_buffers(buffers)
        self._add_metrics(
            {name: totals.get(name, 0) + found[name] for name in self.family.metric_sizes}, norm
        )

    def _turn(self, turn: Hashable, scalars: Mapping[str, Tensor], *, last: bool) -> Tensor:
        """Update the parameters whose turn it is; the norm of their gradient."""
        if turn not in self.masks:
            parts = [
                torch.full((n,), own) for n, own in spans(self.layout, partial(self.family.trains, turn))
            ]
            self.masks[turn] = torch.cat(parts).to(self.devices.device)
        rates = scalars["learning_rate"], scalars["ema_rate"]
        return turn_step(self.state, self.grad, *rates, self.settings, self.masks[turn], last=last)

    def _gradient(
        self,
        inputs: Mapping[str, Tensor],
        scalars: Mapping[str, Tensor],
        n_parts: int,
        phase: Hashable,
        balanced: bool,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Put the gradient of the mean loss in its place; metrics and new buffers."""
        batches, noises = _parts(_taken(inputs, "batch."), n_parts), _parts(_taken(inputs, "noise."), n_parts)
        statistics = self._statistics(batches, noises, phase) if balanced and n_parts > 1 else None
        totals: dict[str, Tensor] = {}
        new: dict[str, Tensor] = {}
        model = self._current(ema=False)
        for index, (batch, noise) in enumerate(zip(batches, noises, strict=True)):
            for lap, own in enumerate(self.family.laps(phase)):
                terms = self.family.terms(model, batch, noise, self.buffers, self.frozen, own)
                if balanced and n_parts == 1:
                    statistics = self.devices.mean(self.family.statistics(terms))
                loss, metrics, buffers = self.family.loss(terms, scalars, statistics, own)
                grads = torch.autograd.grad(loss / n_parts, self.parameters, materialize_grads=True)
                gather(self.grad_views, grads, accumulate=index + lap > 0)
                for name, value in metrics.items():
                    totals[name] = totals.get(name, 0) + value.detach() / n_parts
                for name, value in buffers.items():
                    new[name] = new.get(name, 0) + value.detach() / n_parts
                batch |= self.family.carried(terms)
        self.devices.mean(self.grad)
        return totals, new

    @torch.no_grad()
    def _keep_buffers(self, new: Mapping[str, Tensor], *, assign: bool = True) -> None:
        """Take over buffers, and at the end of a step (`assign`) the parameters that follow from them, unless
        the update was skipped."""
        applied = self.state.skips_in_row == 0
        for name, value in new.items():
            torch.where(applied, self.devices.mean(value), self.buffers[name], out=self.buffers[name])
        params = self.state.params
        if new and assign and (assigned := self.family.assigned(self.buffers, views(params, self.layout))):
            torch.where(applied, write(params, assigned, self.layout), params, out=params)

    @torch.no_grad()
    def _statistics(
        self, batches: list[dict[str, Tensor]], noises: list[dict[str, Tensor]], phase: Hashable
    ) -> Tensor:
        """What the loss balances by, over the whole batch: a pass of its own before the parts' gradients."""
        model = self._current(ema=False)
        terms = [
            self.family.terms(model, *part, self.buffers, self.frozen, phase)
            for part in zip(batches, noises, strict=True)
        ]
        parts = [self.family.statistics(part) for part in terms]
        return self.devices.mean(torch.stack(parts).mean(0))

    def _add_metrics(self, metrics: Mapping[str, Tensor], norm: Tensor) -> None:
        values = [*(metrics[name] for name in self.family.metric_sizes), norm, torch.ones_like(norm)]
        vector = torch.cat([value.reshape(-1).to(self.dtype) for value in values])
        self.metric_sums += torch.where(torch.isfinite(norm), vector, 0)

    def _tensors(self, numbers: Mapping[str, Array | list[Array]]) -> dict[str, Any]:
        """What is the same for every row, on the device."""
        make = partial(torch.as_tensor, dtype=self.dtype, device=self.devices.device)
        return {
            name: [make(item) for item in value] if isinstance(value, list) else make(value)
            for name, value in numbers.items()
        }


def _prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def _taken(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _parts(tensors: Mapping[str, Tensor], n: int) -> list[dict[str, Tensor]]:
    """Split tensors along the batch."""
    pieces = {name: tensor.chunk(n) for name, tensor in tensors.items()}
    return [{name: piece[i] for name, piece in pieces.items()} for i in range(n)]
