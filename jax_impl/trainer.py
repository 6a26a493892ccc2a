"""Building blocks of a family's training step: gradients, updates and means over the global batch."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from dioscuri.hparams.sections import Train
from dioscuri.plans.layout import Layout, spans
from jax_impl.devices import COMPUTE_DTYPES, Devices
from jax_impl.layers.convolution import inside_loop
from jax_impl.layers.lora import trained_kind
from jax_impl.optim.flat import Tree, assemble, canonical, join, pieces, write
from jax_impl.optim.step import OptimizerState, Settings, masked_step, optimizer_step

Arrays = Mapping[str, Array]
Metrics = dict[str, Array]
Buffers = dict[str, Array]
Objective = Callable[[Any, Arrays, Arrays], tuple[Array, Metrics, Buffers]]
"""From the model, a batch and its noise to a loss (0-d), metrics, new buffers: see `FamilyMethods.loss`."""


class TrainState(NamedTuple):
    """The state that a step takes and returns: the optimiser's state, sums of metrics followed by the number
    of steps, and buffers."""

    optimizer: OptimizerState
    metric_sums: Array
    buffers: Buffers


class Trainer:
    """Operations of a training step, called by a family while the whole step is traced: they return the new
    state."""

    def __init__(
        self,
        model: nnx.Module,
        layout: Layout,
        tree: Tree,
        settings: Settings,
        devices: Devices,
        options: Train,
    ) -> None:
        parts: Any = nnx.split(model, trained_kind(model), ...)
        self.graph, _, self.rest = parts
        self.layout, self.tree, self.settings, self.devices = layout, tree, settings, devices
        self.accumulation_steps = options.accumulation_steps
        self.dtype = COMPUTE_DTYPES[options.precision]
        self.regathers = layout.shards > 1 and options.shard == "parameters"

    def gradient(
        self, objective: Objective, state: TrainState, batch: Arrays, noise: Arrays
    ) -> tuple[Array, Metrics, Buffers]:
        """Gradient (P,) of an objective's mean over the global batch, metrics and new buffers.

        The batch is computed in `train.accumulation_steps` micro-batches, one after the other.
        """

        def micro_batch(batch: Arrays, noise: Arrays) -> Any:
            gradient, others = self.gradient_of(lambda model: objective(model, batch, noise), state)
            return gradient, *others

        gradient, metrics, buffers = self.over_micro_batches(micro_batch, batch, noise)
        return gradient, metrics, buffers

    def gradient_of(
        self, function: Callable[[Any], tuple[Any, ...]], state: TrainState
    ) -> tuple[Array, tuple[Any, ...]]:
        """Gradient (P,) of a function of the model whose first result is the loss, and the other results."""

        def loss(params: Any) -> tuple[Array, tuple[Any, ...]]:
            params = self._gathered(params) if self.regathers else params
            value, *others = function(nnx.merge(self.graph, params, self.rest))
            return value, tuple(others)

        flat = state.optimizer.params
        if self.regathers:
            # Nothing of the gathered parameters is kept for the backward pass, which gathers them again.
            loss = jax.checkpoint(loss, policy=_is_computed)
            grads, others = jax.grad(loss, has_aux=True)(self._pieces(flat))
            gradient = jnp.concatenate([grads[slot.name] for slot in self.layout.slots], -1)
        else:
            # Split outside the gradient: the gradient of a slice is a padded vector of full length.
            grads, others = jax.grad(loss, has_aux=True)(self.weights(flat))
            gradient = join(grads, self.layout, self.tree)
        gradient = gradient.astype(flat.dtype)
        if self.layout.shards > 1:
            gradient = jax.lax.with_sharding_constraint(gradient, self.devices.shared)
        return gradient, others

    def over_micro_batches(
        self, function: Callable[[Arrays, Arrays], Any], batch: Arrays, noise: Arrays
    ) -> Any:
        """Means of the results of a function of a micro-batch over the micro-batches of a batch."""
        n = self.accumulation_steps
        if n == 1:
            return function(batch, noise)
        micro_batches = jax.tree.map(self._micro_batches, (batch, noise))
        first = jax.tree.map(lambda array: array[0], micro_batches)
        start = jax.tree.map(jnp.zeros_like, jax.eval_shape(function, *first))

        def add(total: Any, micro_batch: Any) -> tuple[Any, None]:
            micro_batch = jax.lax.with_sharding_constraint(micro_batch, self.devices.sharded)
            with inside_loop():
                return jax.tree.map(jnp.add, total, function(*micro_batch)), None

        total, _ = jax.lax.scan(add, start, micro_batches)
        return jax.tree.map(lambda array: array / n, total)

    def mean(
        self,
        function: Callable[[Any, Arrays, Arrays], Metrics],
        state: TrainState,
        batch: Arrays,
        noise: Arrays,
    ) -> Metrics:
        """Means of a function of model, batch and noise over the global batch, without gradient."""
        model = self.model(state.optimizer.params)
        means = self.over_micro_batches(lambda *arrays: function(model, *arrays), batch, noise)
        return jax.lax.stop_gradient(means)

    def over_processes(self, array: Array) -> Array:
        """Mean of the processes' arrays, without gradient: the array itself, since arrays are global."""
        return jax.lax.stop_gradient(array)

    def update(
        self,
        state: TrainState,
        gradient: Array,
        scalars: Mapping[str, Any],
        trained: Callable[[str], bool] | None = None,
        *,
        last: bool = True,
    ) -> tuple[TrainState, Array]:
        """One step of the optimiser with a gradient (P,), and the gradient's norm.

        `trained` selects parameters by name. Only the `last` of several updates in one step is counted.
        """
        rates = scalars["learning_rate"], scalars["ema_rate"]
        if trained is None:
            optimizer, norm = optimizer_step(state.optimizer, gradient, *rates, self.settings)
        else:
            mask = jnp.concatenate([jnp.full(n, chosen) for n, chosen in spans(self.layout, trained)])
            mask = jnp.broadcast_to(mask, gradient.shape)
            optimizer, norm = masked_step(state.optimizer, gradient, *rates, self.settings, mask, last=last)
        return state._replace(optimizer=optimizer), norm

    def keep_buffers(self, state: TrainState, buffers: Arrays) -> TrainState:
        """Set the buffers to the new ones, unless the update was skipped."""
        applied = state.optimizer.skips_in_row == 0
        updated = {
            name: jax.lax.stop_gradient(jnp.where(applied, buffers[name], old)).astype(old.dtype)
            for name, old in state.buffers.items()
        }
        return state._replace(buffers=updated)

    def parameters_of(self, state: TrainState) -> dict[str, Array]:
        """Parameters under canonical names, in canonical shapes."""
        return canonical(state.optimizer.params, self.layout)

    def overwrite(self, state: TrainState, values: Arrays) -> TrainState:
        """Replace parameters by these arrays, unless the update was skipped."""
        if not values:
            return state
        params, applied = state.optimizer.params, state.optimizer.skips_in_row == 0
        params = jnp.where(applied, write(params, values, self.layout), params)
        return state._replace(optimizer=state.optimizer._replace(params=params))

    def weights(self, flat: Array) -> nnx.State:
        """The model's tree of parameters, converted all at once if it computes in bfloat16."""
        return self._gathered(self._pieces(flat))

    def model(self, flat: Array) -> nnx.Module:
        """The model with the weights of the vector."""
        model: nnx.Module = nnx.merge(self.graph, self.weights(flat), self.rest)
        return model

    def _pieces(self, flat: Array) -> dict[str, Array]:
        return pieces(flat.astype(self.dtype), self.layout)

    def _gathered(self, values: Arrays) -> nnx.State:
        """The model's tree of parameters on every device, from each device's share of them."""
        if self.layout.shards > 1:
            values = {
                name: jax.lax.with_sharding_constraint(value, self.devices.replicated)
                for name, value in values.items()
            }
        return assemble(values, self.tree)

    def _micro_batches(self, array: Array) -> Array:
        """Split (B, ...) into n micro-batches (n, B / n, ...). Every device keeps its rows."""
        n, devices = self.accumulation_steps, self.devices.device_count
        array = array.reshape(devices, n, -1, *array.shape[1:]).swapaxes(0, 1)
        return array.reshape(n, -1, *array.shape[3:])


def _is_computed(primitive: Any, *_: Any, **__: Any) -> bool:
    """Whether a value may be kept for the backward pass: not if it only gathers or reshapes parameters."""
    return primitive.name not in ("sharding_constraint", "reshape", "slice", "squeeze", "transpose")
