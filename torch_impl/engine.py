"""The engine of the PyTorch twin: `dioscuri.engine.Engine` over a family's tensor functions."""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dioscuri.engine import (
    Array,
    Batch,
    Noise,
    State,
    check_batch,
    metric_names,
    step_numbers,
    step_program,
)
from dioscuri.errors import UserError
from dioscuri.inputs import check_lengths
from dioscuri.plans.layout import check_shapes, pack, take_prefixed, unpack
from dioscuri.plans.mesh import mesh_of
from torch_impl.devices import Devices, check_precision, open_devices, set_precision
from torch_impl.families.methods import methods_of
from torch_impl.inference import Runner
from torch_impl.layers.initial import blank
from torch_impl.optim.flat import bind, flat_layout
from torch_impl.optim.step import OptimizerState, Settings
from torch_impl.replay import Inputs, Replay
from torch_impl.sharding import ShardedModel, Shares
from torch_impl.trainer import Trainer, TrainState

COUNTERS = ("updates", "skips", "skips_in_row")


class Engine:
    """Trains and runs the family `run.family` on `run.num_gpus` devices."""

    name = "torch"
    state: TrainState

    def __init__(self, hparams: Any) -> None:
        self.hparams = hparams
        self.devices = self._open_devices()
        self.process_index, self.process_count = self.devices.process_index, self.devices.process_count
        self.device_count = self.devices.device_count
        self.text_device = str(self.devices.device)
        self.dtype = torch.float64 if hparams.train.precision == "float64" else torch.float32
        self.family = methods_of(hparams)
        train = hparams.train
        self.compiles: bool = train.compile
        shards = train.shard != "none" and self.process_count > 1
        self.models = {ema: self._build(shards) for ema in (False, True) if not (ema and shards)}
        self.layout = flat_layout(self.models[False], self.family.parameter_shapes(), self.family.decayed)
        self.sharded = self._shard() if shards else None
        self.settings = Settings.make(hparams.optimizer, self.family.weight_decay, self.layout.n_decayed)
        if self.sharded:
            self.settings = replace(self.settings, norm=self.sharded.shares.norm)
        self.metric_names = metric_names(self.family.metric_sizes)
        self.replay = Replay(train.compile and self.devices.device.type == "cuda" and self.process_count == 1)
        self.runner = Runner(self.family, self.devices, self.dtype)
        self.frozen = self._frozen()
        self._set_state(
            OptimizerState.start(torch.zeros(self.layout.size, dtype=self.dtype, device=self.devices.device))
        )

    def initialise(self) -> None:
        """Create the parameters, their average, the buffers and the optimiser's state."""
        seed = self.hparams.run.seed
        self._set_state(OptimizerState.start(self._vector(self.family.initial_parameters(seed))))
        self._set_buffers(self.family.initial_buffers(seed))

    def train_step(
        self, batch: Batch, step: int, scalars: Mapping[str, float], noise: Noise | None = None
    ) -> None:
        """One update on this process's share of the global batch."""
        micro_batches = self.hparams.train.accumulation_steps
        rows = check_lengths(batch)
        check_batch(rows * self.process_count, self.device_count, micro_batches)
        pictures = {name: self.devices.place(array) for name, array in batch.items()}
        key = (self.hparams.run.seed, step)
        drawn = self.runner.noise("train_step", rows, key) if noise is None else self.runner.placed(noise)
        numbers, switches = step_numbers(scalars, self.family.switches, self.hparams.train.ema_decay)
        values = torch.tensor(list(numbers.values()), dtype=self.dtype)
        inputs = {
            "scalars": {"values": values.to(self.devices.device, non_blocking=True)},
            "batch": pictures,
            "noise": drawn,
        }
        device_step = partial(self._device_step, names=tuple(numbers), switches=switches)
        self.replay(device_step, inputs, key=(*switches.values(), rows))

    def program(self, batch: Batch, scalars: Mapping[str, float]) -> Hashable:
        """What selects the program of a training step; the first step with a new value compiles one."""
        return step_program(batch, scalars, self.family.switches)

    def fetch_metrics(self) -> dict[str, float]:
        """Means since the last call, and the counters of skipped and applied updates."""
        state, sums = self.state.optimizer, self.devices.mean(self.state.metric_sums.clone()).cpu().numpy()
        with np.errstate(invalid="ignore"):
            metrics = dict(zip(self.metric_names, (sums[:-1] / sums[-1]).tolist(), strict=True))
        self.state.metric_sums.zero_()
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
        """Run a method on the global batch, each process on its rows; repeated rows fill the batch."""
        key = self.hparams.run.seed, step
        with self._current(ema=ema) as model:
            return self.runner.run(method, model, batch, self.frozen, key=key, noise=noise, **arguments)

    def barrier(self) -> None:
        """Wait for all processes."""
        self.devices.barrier()

    def state_to_numpy(self, *, everywhere: bool = True) -> State:
        """`model`, `ema`, `optimizer` tensors under canonical names, `counters`, and `buffers` if any."""
        optimizer = self.state.optimizer

        def tensors(vector: Tensor, prefix: str = "") -> dict[str, Array]:
            if self.sharded:
                return self.sharded.shares.to_numpy(vector, prefix, everywhere=everywhere)
            alone = everywhere or self.process_index == 0
            return unpack(vector.cpu().numpy(), self.layout, prefix) if alone else {}

        moments = tensors(optimizer.first, "exp_avg.")
        moments |= tensors(optimizer.second, f"{self.settings.rule.second}.")
        counters = {name: np.asarray(getattr(optimizer, name).item(), np.int64) for name in COUNTERS}
        state = {
            "model": tensors(optimizer.params),
            "ema": tensors(optimizer.ema),
            "optimizer": moments,
            "counters": counters,
        }
        buffers = {name: tensor.cpu().numpy().copy() for name, tensor in self.state.buffers.items()}
        return state | ({"buffers": buffers} if buffers else {})

    def state_from_numpy(self, state: State) -> None:
        """Load a state. Without `ema` the average starts as a copy, without `optimizer` its state is new."""
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

    def memory(self) -> dict[str, int]:
        """Bytes of `weights`, `average` and `optimizer` on this process's device, and the `peak` so far."""
        optimizer = self.state.optimizer
        copies = self.sharded.nbytes if self.sharded else 0
        if not self.sharded and self.trainer.weights is not optimizer.params:
            copies = self.trainer.weights.nbytes
        return {
            "weights": optimizer.params.nbytes + copies,
            "average": optimizer.ema.nbytes,
            "optimizer": optimizer.first.nbytes + optimizer.second.nbytes,
            "peak": self.devices.peak_bytes(),
        }

    def lost(self, error: Exception) -> bool:
        """Whether an error means that another process has ended or does not answer."""
        return self.devices.lost(error)

    def _open_devices(self) -> Devices:
        set_precision(self.hparams.train.precision)
        devices = open_devices(self.hparams.run.num_gpus, self.hparams.run.timeout)
        check_precision(self.hparams.train.precision, devices.device)
        return devices

    def _frozen(self) -> dict[str, Tensor]:
        return self.runner.frozen()

    def _shard(self) -> ShardedModel:
        """The model whose parameters the processes share; the layout becomes that of this one's rows."""
        train, model = self.hparams.train, self.models[False]
        shares = Shares(self.layout, self.devices, mesh_of(train, self.process_count))
        self.layout = shares.layout
        blocks, regather = self.family.blocks(model), train.shard == "parameters"
        return ShardedModel(model, blocks, shares, train.precision, regather=regather)

    def _build(self, shards: bool) -> torch.nn.Module:
        # FSDP2 moves each process's rows to its device.
        device = torch.device("cpu") if shards else self.devices.device
        model: torch.nn.Module = blank(self.family.build).to(device, self.dtype)
        if self.hparams.train.compile:
            self.family.compile(model)
        return model

    def _placed(self, arrays: Mapping[str, Array]) -> dict[str, Tensor]:
        return {
            name: torch.tensor(array, dtype=self.dtype, device=self.devices.device)
            for name, array in arrays.items()
        }

    def _set_buffers(self, arrays: Mapping[str, Array]) -> None:
        check_shapes(arrays, {name: tuple(tensor.shape) for name, tensor in self.state.buffers.items()})
        for name, tensor in self._placed(arrays).items():
            self.state.buffers[name].copy_(tensor)

    def _vector(self, arrays: Mapping[str, Array]) -> Tensor:
        numpy_dtype = np.float64 if self.dtype == torch.float64 else np.float32
        if self.sharded:
            shares = self.sharded.shares
            check_shapes(arrays, {name: slot.shape for name, slot in shares.slots.items()})
            arrays = {name: shares.rows(name, array) for name, array in arrays.items()}
        return torch.from_numpy(pack(arrays, self.layout, numpy_dtype)).to(self.devices.device)

    def _set_state(self, state: OptimizerState) -> None:
        """Set the state's values. Existing vectors are updated in place, since modules and CUDA graphs refer
        to their memory."""
        if hasattr(self, "state"):
            for field in fields(OptimizerState):
                getattr(self.state.optimizer, field.name).copy_(getattr(state, field.name))
            self.state.metric_sums.zero_()
            return
        sums = torch.zeros(len(self.metric_names) + 1, dtype=self.dtype, device=self.devices.device)
        buffers = self._placed(self.family.initial_buffers(self.hparams.run.seed))
        self.state = TrainState(state, sums, buffers)
        self.trainer = Trainer(
            self.models[False],
            state,
            self.layout,
            self.settings,
            self.devices,
            self.hparams.train,
            self.sharded,
        )
        if self.sharded:
            return
        self.averaged = state.ema.to(self.trainer.weights.dtype)
        bind(self.models[True], self.averaged, self.layout)

    @contextmanager
    def _current(self, *, ema: bool) -> Iterator[torch.nn.Module]:
        """The model with the parameters or their average, converted in one step if it computes in
        bfloat16."""
        if self.sharded:
            self.sharded.write(self.state.optimizer.ema if ema else self.state.optimizer.params)
            with self.sharded.gathered() as model:
                yield model
            return
        if not ema:
            self.trainer.refresh(self.state)
        elif self.averaged.dtype != self.state.optimizer.ema.dtype:
            self.averaged.copy_(self.state.optimizer.ema)
        yield self.models[ema]

    def _device_step(self, inputs: Inputs, names: Sequence[str], switches: Mapping[str, bool]) -> None:
        """The training step on the device, in place and without synchronisation."""
        values = inputs["scalars"]["values"].unbind()
        scalars: dict[str, Any] = {**dict(zip(names, values, strict=True)), **switches}
        self.trainer.refresh(self.state)
        _, metrics, norm = self.family.train_step(
            self.trainer, self.state, inputs["batch"], inputs["noise"], scalars, self.frozen
        )
        self._add_metrics(metrics, norm)

    def _add_metrics(self, metrics: Mapping[str, Tensor], norm: Tensor) -> None:
        values = [*(metrics[name] for name in self.family.metric_sizes), norm, torch.ones_like(norm)]
        vector = torch.cat([value.reshape(-1).to(self.dtype) for value in values])
        self.state.metric_sums += torch.where(torch.isfinite(norm), vector, 0)
