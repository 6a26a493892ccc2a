"""The engine of the JAX twin: `common.run.engine.Engine` over a family's tensor functions."""

from collections.abc import Hashable, Mapping, Sequence
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from common.errors import UserError
from common.plans.layout import pack, unpack
from common.run.engine import Array, Batch, Noise, State
from common.run.engine_support import metric_names, padded_rows, take_prefixed
from jax_impl.devices import COMPUTE_DTYPES, open_devices, set_precision, use_compilation_cache
from jax_impl.noise import STREAMS, draw_noise
from jax_impl.optim.flat import flat_layout, join, split
from jax_impl.optim.step import OptimizerState, Settings, optimizer_step

COUNTERS = ("updates", "skips", "skips_in_row")


class TrainState(NamedTuple):
    """What a step takes and gives back: the optimiser's state, sums of metrics and number of their steps."""

    optimizer: OptimizerState
    metric_sums: jax.Array


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
        self.family = import_module(f"jax_impl.families.{hparams.run.family}").Family(hparams)
        self.graph, params, self.rest = nnx.split(nnx.eval_shape(self.family.build), nnx.Param, ...)
        self.layout, self.tree = flat_layout(params, self.family.parameter_shapes(), self.family.decayed)
        train = hparams.train
        self.settings = Settings.make(
            hparams.optimizer, train.ema_decay, self.family.weight_decay, self.layout.n_decayed
        )
        self.compiled: dict[Hashable, Any] = {}
        self.metric_names = metric_names(self.family.metric_sizes)
        self._set_state(OptimizerState.start(jnp.zeros(self.layout.size, self.dtype)))

    def initialise(self) -> None:
        """Create parameters, their average and the optimiser's state."""
        arrays = self.family.initial_parameters(self.hparams.run.seed)
        self._set_state(OptimizerState.start(self._vector(arrays)))

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
        values = {name: np.asarray(value, self.dtype) for name, value in scalars.items()}
        if n_parts == 1:
            self.state = self._jit(self._whole_step, donate=0)(self.state, pictures, drawn, values)
            return
        parts = self._jit(self._parts)(pictures, drawn)
        statistics = self._statistics(parts) if self.family.balances(scalars) else None
        total = None
        for pictures, drawn in parts:
            part = self._jit(self._gradient)(self.state.optimizer.params, pictures, drawn, values, statistics)
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
                state._replace(longest_row=state.skips_in_row.copy()), jnp.zeros_like(self.state.metric_sums)
            )
        )
        return metrics

    def evaluate(self, batch: Batch, *, ema: bool, step: int, noise: Noise | None = None) -> dict[str, Array]:
        """`reconstruction` (B,) and `kl` (B, L) in nats."""
        return self._run("evaluate", batch, ema, step, noise)

    def reconstruct(
        self,
        batch: Batch,
        *,
        ema: bool,
        step: int,
        masks: Sequence[Array] | None = None,
        output: str = "sample",
        output_temperature: float = 1.0,
        noise: Noise | None = None,
    ) -> dict[str, Array]:
        """`image` uint8 (B, h, w, C), `reconstruction` (B,) and `kl` (B, L), masked where masks are given."""
        numbers = {"masks": masks, "output_temperature": output_temperature}
        return self._run("reconstruct", batch, ema, step, noise, numbers, output=output)

    def generate(
        self,
        n: int,
        temperatures: Sequence[float],
        *,
        ema: bool,
        step: int,
        output: str = "sample",
        output_temperature: float = 1.0,
        noise: Noise | None = None,
    ) -> Array:
        """`n` pictures uint8 (n, h, w, C) from the prior."""
        numbers = {"temperatures": np.asarray(temperatures), "output_temperature": output_temperature}
        rows = {"index": np.arange(n)}
        return self._run("generate", rows, ema, step, noise, numbers, output=output)["image"]

    def encode(
        self,
        batch: Batch,
        *,
        ema: bool,
        step: int,
        masks: Sequence[Array] | None = None,
        noise: Noise | None = None,
    ) -> dict[str, Array]:
        """`mean.<l>`, `std.<l>` and `z.<l>` (B, H, W, Z) of every latent group."""
        return self._run("encode", batch, ema, step, noise, {"masks": masks})

    def decode(
        self,
        latents: Mapping[str, Array],
        temperatures: Sequence[float],
        *,
        ema: bool,
        step: int,
        masks: Sequence[Array] | None = None,
        output: str = "mean",
        output_temperature: float = 1.0,
        noise: Noise | None = None,
    ) -> Array:
        """Pictures uint8 (B, h, w, C) from `z.<l>`."""
        numbers = {
            "temperatures": np.asarray(temperatures),
            "masks": masks,
            "output_temperature": output_temperature,
        }
        return self._run("decode", latents, ema, step, noise, numbers, output=output)["image"]

    def inpaint(
        self, batch: Batch, mask: Array, *, ema: bool, step: int, noise: Noise | None = None
    ) -> Array:
        """Pictures whose masked part is filled in, where the family can."""
        return self._run("inpaint", batch, ema, step, noise, {"mask": mask})["image"]

    def divergence_statistics(
        self, batch: Batch, *, ema: bool, step: int, noise: Noise | None = None
    ) -> dict[str, Array]:
        """`kl.<l>` (B, Z): KL of every picture and variate in nats, averaged over the latent grid."""
        return self._run("divergence_statistics", batch, ema, step, noise)

    def output_statistics(self, batch: Batch, *, ema: bool, step: int) -> dict[str, Array]:
        """Arrays of the output layer for histograms."""
        return self._run("output_statistics", batch, ema, step, None)

    def state_to_numpy(self) -> State:
        """`model`, `ema` and `optimizer` tensors under canonical names, and `counters`."""
        state = self.state.optimizer
        vectors = {name: np.asarray(getattr(state, name)) for name in ("params", "ema", "first", "second")}
        moments = unpack(vectors["first"], self.layout, "exp_avg.")
        moments |= unpack(vectors["second"], self.layout, f"{self.settings.rule.second}.")
        counters = {name: np.asarray(getattr(state, name), np.int64) for name in COUNTERS}
        return {
            "model": unpack(vectors["params"], self.layout),
            "ema": unpack(vectors["ema"], self.layout),
            "optimizer": moments,
            "counters": counters,
        }

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
        self._set_state(loaded._replace(longest_row=loaded.skips_in_row.copy()))

    def _vector(self, arrays: Mapping[str, Array]) -> jax.Array:
        return jnp.array(pack(arrays, self.layout, self.dtype))

    def _set_state(self, state: OptimizerState) -> None:
        self.state = self._replicate(TrainState(state, jnp.zeros(len(self.metric_names) + 1, self.dtype)))

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
        draws = self.family.draws(method, rows, **options)
        if not draws:
            return {}
        draw = self._jit(
            partial(draw_noise, draws, dtype=self.dtype), draws, out_shardings=self.devices.sharded
        )
        return draw(tuple(np.uint32(part % 2**32) for part in (self.hparams.run.seed, STREAMS[method], step)))

    def _weights(self, flat: jax.Array) -> nnx.State:
        """The model's tree of parameters, converted at once where it computes in bfloat16."""
        return split(flat.astype(COMPUTE_DTYPES[self.hparams.train.precision]), self.layout, self.tree)

    def _current(self, flat: jax.Array) -> nnx.Module:
        """The model whose weights are the vector's."""
        return nnx.merge(self.graph, self._weights(flat), self.rest)

    def _whole_step(self, state: TrainState, batch: Any, noise: Any, scalars: Any) -> TrainState:
        return self._apply(
            state, self._gradient(state.optimizer.params, batch, noise, scalars, None), scalars
        )

    def _gradient(
        self, flat: jax.Array, batch: Any, noise: Any, scalars: Any, statistics: Any
    ) -> tuple[jax.Array, Any]:
        """Gradient (P,) and metrics of the mean loss over the batch, or over a part of it."""

        def loss(params: nnx.State) -> tuple[jax.Array, dict[str, jax.Array]]:
            terms = self.family.terms(nnx.merge(self.graph, params, self.rest), batch, noise)
            own = self.family.statistics(terms) if statistics is None else statistics
            return self.family.loss(terms, scalars, own)

        # Split outside of the gradient: that of a slice is a padded vector, one of full length a tensor.
        grads, metrics = jax.grad(loss, has_aux=True)(self._weights(flat))
        return join(grads, self.layout, self.tree).astype(flat.dtype), metrics

    def _apply(self, state: TrainState, totals: tuple[jax.Array, Any], scalars: Any) -> TrainState:
        """Update by the mean of the parts' gradients, and add the mean of their metrics to the sums."""
        n_parts = self.hparams.train.accumulation_steps
        grad, metrics = jax.tree.map(lambda total: total / n_parts, totals) if n_parts > 1 else totals
        optimizer, norm = optimizer_step(state.optimizer, grad, scalars["learning_rate"], self.settings)
        values = [*(metrics[name] for name in self.family.metric_sizes), norm, jnp.ones_like(norm)]
        vector = jnp.concatenate([value.reshape(-1).astype(self.dtype) for value in values])
        sums = state.metric_sums + jnp.where(jnp.isfinite(norm), vector, 0)
        return TrainState(optimizer, sums)

    def _statistics(self, parts: Any) -> jax.Array:
        """What the loss balances by, over the whole batch: a pass of its own before the parts' gradients."""
        compute = self._jit(self._part_statistics)
        values = [compute(self.state.optimizer.params, pictures, drawn) for pictures, drawn in parts]
        return self._jit(_mean)(values)

    def _part_statistics(self, flat: jax.Array, batch: Any, noise: Any) -> jax.Array:
        model = self._current(flat)
        return self.family.statistics(self.family.terms(model, batch, noise))

    def _parts(self, batch: Any, noise: Any) -> list[Any]:
        """Split along the batch so that every device keeps its rows."""
        n, devices = self.hparams.train.accumulation_steps, self.device_count

        def pieces(array: jax.Array) -> jax.Array:
            array = array.reshape(devices, n, -1, *array.shape[1:]).swapaxes(0, 1)
            return array.reshape(n, -1, *array.shape[3:])

        split_up = jax.tree.map(pieces, (batch, noise))
        parts = [jax.tree.map(lambda array, i=i: array[i], split_up) for i in range(n)]
        return jax.lax.with_sharding_constraint(parts, self.devices.sharded)

    def _run(
        self,
        method: str,
        batch: Batch,
        ema: bool,
        step: int,
        noise: Noise | None,
        numbers: Mapping[str, Any] | None = None,
        **options: str,
    ) -> dict[str, Array]:
        """Run a family's method on the global batch, each device its rows; repetition fills batches."""
        function = getattr(self.family, method, None)
        if function is None:
            raise UserError(f"[run] family '{self.hparams.run.family}' has no mode '{method}'")
        n = len(next(iter(batch.values())))
        rows = padded_rows(n, self.device_count)
        arrays = {name: self.devices.place(self.devices.share(array[rows])) for name, array in batch.items()}
        given = noise and {name: self.devices.share(np.asarray(array)[rows]) for name, array in noise.items()}
        drawn = self._noise(method, len(rows), step, given, **options)

        def run(flat: jax.Array, arrays: Any, drawn: Any, numbers: Any) -> dict[str, jax.Array]:
            model = self._current(flat)
            return function(model, arrays, drawn, **numbers, **options)

        state = self.state.optimizer
        compiled = self._jit(run, (method, *options.items()), out_shardings=self.devices.sharded)
        results = compiled(state.ema if ema else state.params, arrays, drawn, self._arrays(numbers or {}))
        return {name: self.devices.to_numpy(value)[:n] for name, value in results.items()}

    def _arrays(self, numbers: Mapping[str, Any]) -> dict[str, Any]:
        """Numbers, arrays and lists of arrays that are the same for every row."""
        make = partial(np.asarray, dtype=self.dtype)

        def converted(value: Any) -> Any:
            if value is None:
                return None
            return [make(item) for item in value] if isinstance(value, list | tuple) else make(value)

        return {name: converted(value) for name, value in numbers.items()}


def _add(left: Any, right: Any) -> Any:
    return jax.tree.map(jnp.add, left, right)


def _mean(values: list[jax.Array]) -> jax.Array:
    return jnp.stack(values).mean(0)
