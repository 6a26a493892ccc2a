"""The engine of the JAX twin: `dioscuri.engine.Engine` over a family's tensor functions."""

from collections.abc import Hashable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding

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
from jax_impl.devices import Devices, check_precision, open_devices, set_precision, use_compilation_cache
from jax_impl.families.methods import methods_of
from jax_impl.inference import Runner
from jax_impl.layers.lora import trained_kind
from jax_impl.optim.flat import flat_layout
from jax_impl.optim.step import OptimizerState, Settings
from jax_impl.trainer import Trainer, TrainState

COUNTERS = ("updates", "skips", "skips_in_row")
_VECTORS = ("params", "ema", "first", "second")


class Engine:
    """Trains and runs the family `run.family` on `run.num_gpus` devices."""

    name = "jax"
    compiles = True
    state: TrainState

    def __init__(self, hparams: Any) -> None:
        self.hparams = hparams
        opened = self._open_devices()
        mesh = mesh_of(hparams.train, opened.device_count)
        self.devices = opened.arranged(mesh)
        self.process_index, self.process_count = self.devices.process_index, self.devices.process_count
        self.device_count = self.devices.device_count
        self.text_device = "cpu"
        self.dtype = np.float64 if hparams.train.precision == "float64" else np.float32
        self.family = methods_of(hparams)
        model = nnx.eval_shape(self.family.build)
        params = nnx.state(model, trained_kind(model))
        shapes = self.family.parameter_shapes()
        self.layout, tree = flat_layout(params, shapes, self.family.decayed, mesh.shard)
        self.settings = Settings.make(hparams.optimizer, self.family.weight_decay, self.layout.n_decayed)
        self.trainer = Trainer(model, self.layout, tree, self.settings, self.devices, hparams.train)
        self.runner = Runner(self.family, self.devices, self.dtype, self.trainer.model)
        self.metric_names = metric_names(self.family.metric_sizes)
        self.frozen = self._frozen()
        self.initial_buffers = self.family.initial_buffers(hparams.run.seed)
        self._begin()

    def initialise(self) -> None:
        """Create the parameters, their average, the buffers and the optimiser's state."""
        arrays = self.family.initial_parameters(self.hparams.run.seed)
        self._set_state(OptimizerState.start(self._vector(arrays)), self.initial_buffers)

    def train_step(
        self, batch: Batch, step: int, scalars: Mapping[str, float], noise: Noise | None = None
    ) -> None:
        """One update on this process's share of the global batch."""
        micro_batches = self.hparams.train.accumulation_steps
        rows = check_lengths(batch) * self.process_count
        check_batch(rows, self.device_count, micro_batches)
        pictures = {name: self.devices.place(array) for name, array in batch.items()}
        key = (self.hparams.run.seed, step)
        drawn = self.runner.noise("train_step", rows, key) if noise is None else self.runner.placed(noise)
        numbers, switches = step_numbers(scalars, self.family.switches, self.hparams.train.ema_decay)
        values = {name: np.asarray(value, self.dtype) for name, value in numbers.items()}
        whole_step = partial(self._whole_step, switches)
        compiled = self.runner.jit(whole_step, ("step", *switches.items()), donate_argnums=0)
        self.state = compiled(self.state, self.frozen, pictures, drawn, values)

    def program(self, batch: Batch, scalars: Mapping[str, float]) -> Hashable:
        """What selects the program of a training step; the first step with a new value compiles one."""
        return step_program(batch, scalars, self.family.switches)

    def fetch_metrics(self) -> dict[str, float]:
        """Means since the last call, and the counters of skipped and applied updates."""
        state, sums = self.state.optimizer, self.devices.to_numpy(self.state.metric_sums)
        with np.errstate(invalid="ignore"):
            metrics = dict(zip(self.metric_names, (sums[:-1] / sums[-1]).tolist(), strict=True))
        metrics |= {
            "skips": int(state.skips),
            "updates": int(state.updates),
            "skips_in_row": int(state.longest_row),
        }
        self.state = TrainState(
            state._replace(longest_row=self._replicate(state.skips_in_row)),
            self._replicate(jnp.zeros_like(self.state.metric_sums)),
            self.state.buffers,
        )
        return metrics

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
        """Run a method on the global batch, each device on its rows; repeated rows fill the batch."""
        optimizer, key = self.state.optimizer, (self.hparams.run.seed, step)
        flat = optimizer.ema if ema else optimizer.params
        return self.runner.run(method, flat, batch, self.frozen, key=key, noise=noise, **arguments)

    def barrier(self) -> None:
        """Wait for all processes."""
        self.devices.barrier()

    def state_to_numpy(self, *, everywhere: bool = True) -> State:
        """`model`, `ema`, `optimizer` tensors under canonical names, `counters`, and `buffers` if any."""
        optimizer = self.state.optimizer

        def tensors(vector: jax.Array, prefix: str = "") -> dict[str, Array]:
            flat = self.devices.to_numpy(vector)
            alone = everywhere or self.process_index == 0
            return unpack(flat, self.layout, prefix) if alone else {}

        moments = tensors(optimizer.first, "exp_avg.")
        moments |= tensors(optimizer.second, f"{self.settings.rule.second}.")
        counters = {name: np.asarray(getattr(optimizer, name), np.int64) for name in COUNTERS}
        state = {
            "model": tensors(optimizer.params),
            "ema": tensors(optimizer.ema),
            "optimizer": moments,
            "counters": counters,
        }
        buffers = {name: np.array(array) for name, array in self.state.buffers.items()}
        return state | ({"buffers": buffers} if buffers else {})

    def state_from_numpy(self, state: State) -> None:
        """Load a state. Without `ema` the average starts as a copy, without `optimizer` its state is new."""
        loaded = OptimizerState.start(self._vector(state["model"]))
        if "ema" in state:
            loaded = loaded._replace(ema=self._vector(state["ema"]))
        if "optimizer" in state:
            moments = dict(state["optimizer"])
            first = self._vector(take_prefixed(moments, "exp_avg."))
            second = self._vector(take_prefixed(moments, f"{self.settings.rule.second}."))
            loaded = loaded._replace(first=first, second=second)
            if moments:
                raise UserError(
                    f"[optimizer] type {self.hparams.optimizer.type} has no tensor '{next(iter(moments))}'"
                )
        counters = {
            name: jnp.asarray(int(value), jnp.int32) for name, value in state.get("counters", {}).items()
        }
        loaded = loaded._replace(**counters)
        loaded = loaded._replace(longest_row=loaded.skips_in_row.copy())
        self._set_state(loaded, state.get("buffers", self.initial_buffers))

    def memory(self) -> dict[str, int]:
        """Bytes of `weights`, `average` and `optimizer` on the first device, and the `peak` so far."""
        held = {name: self.devices.held_bytes(getattr(self.state.optimizer, name)) for name in _VECTORS}
        return {
            "weights": held["params"],
            "average": held["ema"],
            "optimizer": held["first"] + held["second"],
            "peak": self.devices.peak_bytes(),
        }

    def lost(self, error: Exception) -> bool:
        """Whether an error means that another process has ended or does not answer."""
        return self.devices.lost(error)

    def _open_devices(self) -> Devices:
        use_compilation_cache()
        set_precision(self.hparams.train.precision)
        run = self.hparams.run
        devices = open_devices(run.num_gpus, run.num_cpu_devices, run.timeout)
        check_precision(self.hparams.train.precision, devices.mesh.devices.flat[0])
        return devices

    def _frozen(self) -> dict[str, jax.Array]:
        arrays = {
            name: np.asarray(array, self.runner.frozen_dtype(name))
            for name, array in self.family.frozen().items()
        }
        frozen: dict[str, jax.Array] = self._replicate(arrays)
        return frozen

    def _begin(self) -> None:
        zeros = jnp.zeros(self.layout.vector_shape, self.dtype, device=self._sharding)
        self._set_state(OptimizerState.start(zeros), self.initial_buffers)

    @property
    def _sharding(self) -> NamedSharding:
        """Of the vectors of parameters: their rows on the devices, if `train.shard` asks for it."""
        return self.devices.shared if self.layout.shards > 1 else self.devices.replicated

    def _vector(self, arrays: Mapping[str, Array]) -> jax.Array:
        """The vector of parameters, in new memory: it may not be that of NumPy, since the step donates it."""
        flat = pack(arrays, self.layout, self.dtype)
        array = jax.make_array_from_callback(flat.shape, self._sharding, lambda index: flat[index])
        return jax.device_put(array, self._sharding, may_alias=False)

    def _cast(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        return {name: np.asarray(array, self.dtype) for name, array in arrays.items()}

    def _set_state(self, state: OptimizerState, buffers: Mapping[str, Array]) -> None:
        check_shapes(buffers, {name: array.shape for name, array in self.initial_buffers.items()})
        sums = jnp.zeros(len(self.metric_names) + 1, self.dtype)
        held = {name: array for name, array in state._asdict().items() if name in _VECTORS}
        placed = jax.device_put(held, self._sharding)
        counters = {
            name: self._replicate(array) for name, array in state._asdict().items() if name not in _VECTORS
        }
        self.state = TrainState(
            OptimizerState(**placed, **counters), *self._replicate((sums, self._cast(buffers)))
        )

    def _replicate(self, tree: Any) -> Any:
        """Copy a tree to every device; its memory is new, since the step donates it."""
        return jax.device_put(tree, self.devices.replicated, may_alias=False)

    def _whole_step(
        self,
        switches: Mapping[str, bool],
        state: TrainState,
        frozen: Any,
        batch: Any,
        noise: Any,
        numbers: Any,
    ) -> TrainState:
        scalars = {**numbers, **switches}
        state, metrics, norm = self.family.train_step(self.trainer, state, batch, noise, scalars, frozen)
        return self._with_metrics(self._shared(state), metrics, norm)

    def _shared(self, state: TrainState) -> TrainState:
        """The new state, whose vectors lie on the devices as those of the old one do."""
        if self.layout.shards == 1:
            return state
        optimizer = state.optimizer._asdict()
        vectors = jax.lax.with_sharding_constraint(
            {name: optimizer[name] for name in _VECTORS}, self._sharding
        )
        return state._replace(optimizer=OptimizerState(**{**optimizer, **vectors}))

    def _with_metrics(self, state: TrainState, metrics: Any, norm: jax.Array) -> TrainState:
        """Add a step's metrics to the sums."""
        values = [*(metrics[name] for name in self.family.metric_sizes), norm, jnp.ones_like(norm)]
        vector = jnp.concatenate([value.reshape(-1).astype(self.dtype) for value in values])
        sums = state.metric_sums + jnp.where(jnp.isfinite(norm), vector, 0)
        return state._replace(metric_sums=sums)
