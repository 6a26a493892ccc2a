"""The engine of the JAX twin: `dioscuri.engine.Engine` over a family's tensor functions."""

from collections.abc import Hashable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

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
from jax_impl.devices import COMPUTE_DTYPES, open_devices, set_precision, use_compilation_cache
from jax_impl.families.methods import methods_of
from jax_impl.noise import STREAMS, draw_noise
from jax_impl.optim.flat import canonical, flat_layout, join, split, write
from jax_impl.optim.step import OptimizerState, Settings, optimizer_step, turn_step

COUNTERS = ("updates", "skips", "skips_in_row")


class TrainState(NamedTuple):
    """What a step takes and gives back: the optimiser's state, sums of metrics and number of their steps,
    buffers."""

    optimizer: OptimizerState
    metric_sums: jax.Array
    buffers: dict[str, jax.Array]


class Engine:
    """Trains and runs the family `run.family` on the devices that `run.num_gpus` asks for."""

    name = "jax"

    def __init__(self, hparams: Any) -> None:
        self.hparams = hparams
        use_compilation_cache()
        set_precision(hparams.train.precision)
        self.devices = open_devices(hparams.run.num_gpus)
        self.process_index, self.process_count = self.devices.process_index, self.devices.process_count
        self.device_count = self.devices.device_count
        self.dtype = np.float64 if hparams.train.precision == "float64" else np.float32
        self.family = methods_of(hparams)
        self.graph, params, self.rest = nnx.split(nnx.eval_shape(self.family.build), nnx.Param, ...)
        self.layout, self.tree = flat_layout(params, self.family.parameter_shapes(), self.family.decayed)
        self.settings = Settings.make(hparams.optimizer, self.family.weight_decay, self.layout.n_decayed)
        self.compiled: dict[Hashable, Any] = {}
        self.metric_names = metric_names(self.family.metric_sizes)
        self.frozen = self._replicate(self._cast(self.family.frozen()))
        self.initial_buffers = self.family.initial_buffers(hparams.run.seed)
        self._set_state(OptimizerState.start(jnp.zeros(self.layout.size, self.dtype)), self.initial_buffers)

    def initialise(self) -> None:
        """Create parameters, their average, buffers and the optimiser's state."""
        arrays = self.family.initial_parameters(self.hparams.run.seed)
        self._set_state(OptimizerState.start(self._vector(arrays)), self.initial_buffers)

    def train_step(
        self, batch: Batch, step: int, scalars: Mapping[str, float], noise: Noise | None = None
    ) -> None:
        """One update on this process's share of the global batch."""
        n_parts = self.hparams.train.accumulation_steps
        rows = len(next(iter(batch.values()))) * self.process_count
        if rows % (n_parts * self.device_count):
            raise UserError(
                f"[train] batch_size {rows} must be a multiple of devices x parts, "
                f"{self.device_count} x {n_parts}"
            )
        pictures = {name: self.devices.place(array) for name, array in batch.items()}
        drawn = self._noise("train_step", rows, step, noise)
        phase, balanced = self.family.phase(scalars), self.family.balances(scalars)
        scalars = with_ema_rate(scalars, self.hparams.train.ema_decay)
        values = {name: np.asarray(value, self.dtype) for name, value in scalars.items()}
        if n_parts == 1:
            whole_step = self._jit(partial(self._whole_step, phase), ("step", phase), donate=0)
            self.state = whole_step(self.state, self.frozen, pictures, drawn, values)
            return
        parts = self._jit(self._parts)(pictures, drawn)
        statistics = self._statistics(parts, phase) if balanced else None
        gradient = self._jit(partial(self._gradient, phase), ("gradient", phase))
        total = None
        for pictures, drawn in parts:
            part = gradient(self.state, self.frozen, pictures, drawn, values, statistics)
            total = part if total is None else self._jit(_add, donate=0)(total, part)
        self.state = self._jit(self._apply, donate=0)(self.state, total, values)

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
        self.state = self._replicate(
            TrainState(
                state._replace(longest_row=state.skips_in_row.copy()),
                jnp.zeros_like(self.state.metric_sums),
                self.state.buffers,
            )
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
        """Run a family's method on the global batch, each device its rows; repetition fills batches."""
        function = mode(self.family, method)
        options, numbers = split_arguments(arguments)
        n = len(next(iter(batch.values())))
        rows = padded_rows(n, self.device_count)
        arrays = {name: self.devices.place(self.devices.share(array[rows])) for name, array in batch.items()}
        given = noise and {name: self.devices.share(np.asarray(array)[rows]) for name, array in noise.items()}
        drawn = self._noise(method, len(rows), step, given, **options)

        def run(flat: jax.Array, arrays: Any, frozen: Any, drawn: Any, numbers: Any) -> dict[str, jax.Array]:
            return function(self._current(flat), arrays, drawn, frozen, **numbers, **options)

        flat = self.state.optimizer.ema if ema else self.state.optimizer.params
        compiled = self._jit(run, (method, *options.items()), out_shardings=self.devices.sharded)
        results = compiled(flat, arrays, self.frozen, drawn, self._arrays(numbers))
        return {name: self.devices.to_numpy(value)[:n] for name, value in results.items()}

    def barrier(self) -> None:
        """Wait until every process has come here."""
        self.devices.barrier()

    def state_to_numpy(self) -> State:
        """`model`, `ema`, `optimizer` tensors under canonical names, `counters`, and `buffers` if any."""
        optimizer = self.state.optimizer
        vectors = {
            name: np.asarray(getattr(optimizer, name)) for name in ("params", "ema", "first", "second")
        }
        moments = unpack(vectors["first"], self.layout, "exp_avg.")
        moments |= unpack(vectors["second"], self.layout, f"{self.settings.rule.second}.")
        counters = {name: np.asarray(getattr(optimizer, name), np.int64) for name in COUNTERS}
        state = {
            "model": unpack(vectors["params"], self.layout),
            "ema": unpack(vectors["ema"], self.layout),
            "optimizer": moments,
            "counters": counters,
        }
        buffers = {name: np.array(array) for name, array in self.state.buffers.items()}
        return state | ({"buffers": buffers} if buffers else {})

    def state_from_numpy(self, state: State) -> None:
        """Load a state; without `ema` or `optimizer` the average begins as a copy, the optimiser afresh."""
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

    def _vector(self, arrays: Mapping[str, Array]) -> jax.Array:
        return jnp.array(pack(arrays, self.layout, self.dtype))

    def _cast(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        return {name: np.asarray(array, self.dtype) for name, array in arrays.items()}

    def _set_state(self, state: OptimizerState, buffers: Mapping[str, Array]) -> None:
        check_shapes(buffers, {name: array.shape for name, array in self.initial_buffers.items()})
        sums = jnp.zeros(len(self.metric_names) + 1, self.dtype)
        self.state = self._replicate(TrainState(state, sums, self._cast(buffers)))

    def _replicate(self, tree: Any) -> Any:
        """Put a tree on every device, in memory of its own: the step gives it away."""
        return jax.device_put(tree, self.devices.replicated, may_alias=False)

    def _jit(self, function: Any, key: Hashable = None, **options: Any) -> Any:
        """The compiled form of a function, made once."""
        key = (function.__name__, key) if key is None else key
        if key not in self.compiled:
            donated = {"donate_argnums": options.pop("donate")} if "donate" in options else {}
            self.compiled[key] = jax.jit(
                function, compiler_options=self.devices.compiler_options, **donated, **options
            )
        return self.compiled[key]

    def _noise(
        self, method: str, rows: int, step: int, given: Noise | None, **options: Any
    ) -> dict[str, jax.Array]:
        if given is not None:
            return {name: self.devices.place(array, self.dtype) for name, array in given.items()}
        specs = self.family.noise_specs(method, rows, **options)
        if not specs:
            return {}
        shardings = {spec.name: self.devices.sharding(spec.kind != "generator") for spec in specs}
        draw = self._jit(partial(draw_noise, specs, dtype=self.dtype), specs, out_shardings=shardings)
        return draw(tuple(np.uint32(part % 2**32) for part in (self.hparams.run.seed, STREAMS[method], step)))

    def _weights(self, flat: jax.Array) -> nnx.State:
        """The model's tree of parameters, converted at once where it computes in bfloat16."""
        return split(flat.astype(COMPUTE_DTYPES[self.hparams.train.precision]), self.layout, self.tree)

    def _current(self, flat: jax.Array) -> nnx.Module:
        """The model whose weights are the vector's."""
        return nnx.merge(self.graph, self._weights(flat), self.rest)

    def _whole_step(
        self, phase: Hashable, state: TrainState, frozen: Any, batch: Any, noise: Any, scalars: Any
    ) -> TrainState:
        *earlier, last = self.family.turns(phase)
        totals: dict[str, jax.Array] = {}
        for turn in earlier:
            grad, (found, buffers) = self._gradient(turn, state, frozen, batch, noise, scalars, None)
            optimizer, _ = self._turn(turn, state, grad, scalars, last=False)
            state = self._with_buffers(state, optimizer, buffers, assign=False)
            totals = {name: totals.get(name, 0) + found[name] for name in self.family.metric_sizes}
        grad, (found, buffers) = self._gradient(last, state, frozen, batch, noise, scalars, None)
        if not earlier:
            return self._apply(state, (grad, (found, buffers)), scalars)
        optimizer, norm = self._turn(last, state, grad, scalars, last=True)
        found = {name: totals[name] + found[name] for name in totals}
        return self._with_metrics(self._with_buffers(state, optimizer, buffers), found, norm)

    def _turn(
        self, turn: Hashable, state: TrainState, grad: jax.Array, scalars: Any, *, last: bool
    ) -> tuple[OptimizerState, jax.Array]:
        """Update the parameters whose turn it is; the norm of their gradient."""
        parts = spans(self.layout, partial(self.family.trains, turn))
        mask = jnp.concatenate([jnp.full(n, own) for n, own in parts])
        rates = scalars["learning_rate"], scalars["ema_rate"]
        return turn_step(state.optimizer, grad, *rates, self.settings, mask, last=last)

    def _gradient(
        self,
        phase: Hashable,
        state: TrainState,
        frozen: Any,
        batch: Any,
        noise: Any,
        scalars: Any,
        statistics: Any,
    ) -> tuple[jax.Array, Any]:
        """Gradient (P,), metrics and new buffers of the mean loss over the batch, or over a part of it."""
        flat = state.optimizer.params

        def loss(params: nnx.State, batch: Any, lap: Hashable) -> tuple[jax.Array, Any]:
            model = nnx.merge(self.graph, params, self.rest)
            terms = self.family.terms(model, batch, noise, state.buffers, frozen, lap)
            own = self.family.statistics(terms) if statistics is None else statistics
            value, metrics, buffers = self.family.loss(terms, scalars, own, lap)
            return value, ((metrics, buffers), self.family.carried(terms))

        # Split outside of the gradient: that of a slice is a padded vector, one of full length a tensor.
        weights, total = self._weights(flat), None
        for lap in self.family.laps(phase):
            grads, (told, carried) = jax.grad(loss, has_aux=True)(weights, batch, lap)
            part = join(grads, self.layout, self.tree).astype(flat.dtype), told
            total = part if total is None else _add(total, part)
            # The next lap begins when this one's gradient is there: memory holds one at a time.
            total, carried = jax.lax.optimization_barrier((total, carried)) if carried else (total, carried)
            batch = batch | carried
        return total

    def _apply(self, state: TrainState, totals: tuple[jax.Array, Any], scalars: Any) -> TrainState:
        """Update by the mean of the parts' gradients, and add the mean of their metrics to the sums."""
        n_parts = self.hparams.train.accumulation_steps
        mean = jax.tree.map(lambda total: total / n_parts, totals) if n_parts > 1 else totals
        grad, (metrics, buffers) = mean
        optimizer, norm = optimizer_step(
            state.optimizer, grad, scalars["learning_rate"], scalars["ema_rate"], self.settings
        )
        return self._with_metrics(self._with_buffers(state, optimizer, buffers), metrics, norm)

    def _with_buffers(
        self,
        state: TrainState,
        optimizer: OptimizerState,
        new: Mapping[str, jax.Array],
        *,
        assign: bool = True,
    ) -> TrainState:
        """Take over an update and its buffers, and at the end of a step (`assign`) the parameters that follow
        from them, unless it was skipped."""
        applied = optimizer.skips_in_row == 0
        buffers = {
            name: jnp.where(applied, new[name], array).astype(self.dtype)
            for name, array in state.buffers.items()
        }
        parameters = canonical(optimizer.params, self.layout) if buffers and assign else {}
        if parameters and (assigned := self.family.assigned(buffers, parameters)):
            params = write(optimizer.params, assigned, self.layout)
            optimizer = optimizer._replace(params=jnp.where(applied, params, optimizer.params))
        return TrainState(optimizer, state.metric_sums, buffers)

    def _with_metrics(self, state: TrainState, metrics: Any, norm: jax.Array) -> TrainState:
        """Add a step's metrics to the sums."""
        values = [*(metrics[name] for name in self.family.metric_sizes), norm, jnp.ones_like(norm)]
        vector = jnp.concatenate([value.reshape(-1).astype(self.dtype) for value in values])
        sums = state.metric_sums + jnp.where(jnp.isfinite(norm), vector, 0)
        return TrainState(state.optimizer, sums, state.buffers)

    def _statistics(self, parts: Any, phase: Hashable) -> jax.Array:
        """What the loss balances by, over the whole batch: a pass of its own before the parts' gradients."""
        compute = self._jit(partial(self._part_statistics, phase), ("statistics", phase))
        values = [compute(self.state, self.frozen, pictures, drawn) for pictures, drawn in parts]
        return self._jit(_mean)(values)

    def _part_statistics(
        self, phase: Hashable, state: TrainState, frozen: Any, batch: Any, noise: Any
    ) -> jax.Array:
        model = self._current(state.optimizer.params)
        return self.family.statistics(self.family.terms(model, batch, noise, state.buffers, frozen, phase))

    def _parts(self, batch: Any, noise: Any) -> list[Any]:
        """Split along the batch so that every device keeps its rows."""
        n, devices = self.hparams.train.accumulation_steps, self.device_count

        def pieces(array: jax.Array) -> jax.Array:
            array = array.reshape(devices, n, -1, *array.shape[1:]).swapaxes(0, 1)
            return array.reshape(n, -1, *array.shape[3:])

        split_up = jax.tree.map(pieces, (batch, noise))
        parts = [jax.tree.map(lambda array, i=i: array[i], split_up) for i in range(n)]
        return jax.lax.with_sharding_constraint(parts, self.devices.sharded)

    def _arrays(self, numbers: Mapping[str, Array | list[Array]]) -> dict[str, Any]:
        """What is the same for every row."""
        make = partial(np.asarray, dtype=self.dtype)
        return {
            name: [make(item) for item in value] if isinstance(value, list) else make(value)
            for name, value in numbers.items()
        }


def _add(left: Any, right: Any) -> Any:
    return jax.tree.map(jnp.add, left, right)


def _mean(values: list[jax.Array]) -> jax.Array:
    return jnp.stack(values).mean(0)
