"""What a training step takes, as XLA plans its memory: the step is compiled and not run."""

from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from math import prod
from types import SimpleNamespace
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr
from jax.sharding import Mesh

from dioscuri.context import Context
from dioscuri.contract import family_run
from dioscuri.engine import step_numbers
from dioscuri.plans.description import RowShapes
from dioscuri.plans.footprint import Footprint, collectives, resident_bytes
from dioscuri.plans.mesh import MeshShape
from jax_impl.devices import Devices
from jax_impl.engine import Engine
from jax_impl.optim.step import OptimizerState
from jax_impl.trainer import TrainState

EVERY_BATCH = False
"""Whether one followed step tells the peak of every batch: here each is compiled."""

_VECTORS_AT_START = 12
"""Vectors of parameters: parameters, average and two moments as the engine is made, the first values of each,
and copies of these."""

_OTHER_PROGRAMS = 0.08
"""What a run compiles beside the step, as a share of a CPU process's peak: fitted to docs/memory.md."""


_HELD_VECTORS = 4
"""Vectors of parameters between steps: parameters, average and two moments."""


class _PlannedEngine(Engine):
    """An engine on one CPU whose arrays have shapes and no memory."""

    def _open_devices(self) -> Devices:
        return Devices(Mesh(np.array(jax.devices("cpu")[:1]), ("data",)), 0, 1)

    def _frozen(self) -> dict[str, Any]:
        return {
            name: self._shape(shape, self.runner.frozen_dtype(name))
            for name, shape in self.family.frozen_shapes().items()
        }

    def _begin(self) -> None:
        def state() -> TrainState:
            sums = jnp.zeros(len(self.metric_names) + 1, self.dtype)
            buffers = {name: jnp.zeros(a.shape, self.dtype) for name, a in self.initial_buffers.items()}
            return TrainState(OptimizerState.start(jnp.zeros(self.layout.size, self.dtype)), sums, buffers)

        shapes = jax.eval_shape(state)
        self.state = jax.tree.map(lambda leaf: self._shape(leaf.shape, leaf.dtype), shapes)

    def trace(self, rows: RowShapes, batch: int, step: int, scalars: Mapping[str, float]) -> tuple[Any, int]:
        """The step of `train_step`, traced and not compiled, and the number of its backward passes."""
        passes, gradient_of = 0, self.trainer.gradient_of

        def counted(*arguments: Any) -> Any:
            nonlocal passes
            passes += 1
            return gradient_of(*arguments)

        self.trainer.gradient_of = counted  # type: ignore[method-assign,assignment] # of this engine alone
        traced = self._trace(rows, batch, step, scalars)
        self.trainer.gradient_of = gradient_of  # type: ignore[method-assign] # its own again
        parts = self.trainer.accumulation_steps
        # A micro-batch is traced twice, whatever their number.
        return traced, passes if parts == 1 else passes * parts // 2

    def _trace(self, rows: RowShapes, batch: int, step: int, scalars: Mapping[str, float]) -> Any:
        specs = self.family.noise_specs("train_step", batch)
        numbers, switches = step_numbers(scalars, self.family.switches, self.hparams.train.ema_decay)
        return self.runner.jit(partial(self._whole_step, switches), ("step", step), donate_argnums=0).trace(
            self.state,
            self.frozen,
            {name: self._shape((batch, *shape), np.dtype(dtype)) for name, (shape, dtype) in rows.items()},
            {spec.name: self._shape(spec.shape) for spec in specs},
            {name: self._shape(()) for name in numbers},
        )

    def _shape(self, shape: tuple[int, ...], dtype: Any = None) -> jax.ShapeDtypeStruct:
        dtype = self.dtype if dtype is None else dtype
        return jax.ShapeDtypeStruct(shape, dtype, sharding=self.devices.replicated)


def follow_step(
    hparams: Any, rows: RowShapes, *, accelerator: bool = False
) -> Callable[[int, MeshShape], Footprint]:
    """From a number of rows and a mesh to what a step takes with them on one of its devices.

    `hparams` are those of a single device, a CPU, for which the step is compiled. `rows` must be a multiple
    of `train.accumulation_steps`.
    """
    program = resident_bytes()
    double = hparams.train.precision == "float64"
    with jax.enable_x64(double):
        engine, last = _PlannedEngine(hparams), hparams.train.total_train_steps
    context = cast("Context", SimpleNamespace(hparams=hparams, engine=engine))
    scalars = family_run(context).scalars(last)
    vector = engine.layout.size * np.dtype(engine.dtype).itemsize
    held = jax.tree.leaves((engine.state, engine.frozen))
    state = sum(prod(leaf.shape) * leaf.dtype.itemsize for leaf in held)
    start = _VECTORS_AT_START * vector
    width = 2 if hparams.train.precision == "bfloat16" else np.dtype(engine.dtype).itemsize
    gathered = engine.layout.size * width
    sizes = [prod(slot.shape) for slot in engine.layout.slots]
    beside = {
        "none": 0,  # XLA averages gradients in place
        "optimizer": gathered,
        # The gradient is never whole; the largest parameter is gathered while another one's is reduced.
        "parameters": 2 * width * max(sizes) - vector,
    }

    @cache
    def compiled_step(n: int) -> tuple[Any, int, Any]:
        with jax.enable_x64(double):
            traced, passes = engine.trace(rows, n, last, scalars)
            return traced, passes, traced.lower().compile().memory_analysis()

    @cache
    def footprint(n: int, mesh: MeshShape) -> Footprint:
        shard = hparams.train.shard if mesh.shard > 1 else "none"
        share = vector // engine.layout.size * sum(-(-size // mesh.shard) for size in sizes)
        spared = _HELD_VECTORS * (vector - share)
        traced, passes, memory = compiled_step(n)
        results = memory.output_size_in_bytes - memory.alias_size_in_bytes
        step = memory.argument_size_in_bytes + memory.temp_size_in_bytes + results + beside[shard] - spared
        peak = max(start, step)
        # The compiler's memory: at its peak beside the state, and what it leaves beside the step.
        compiling, compiled = (resident_bytes(at_most=most) - program for most in (True, False))
        surplus = max(0, compiling + state - peak, compiled + step - peak)
        surplus += int(_OTHER_PROGRAMS * (program + peak + surplus))
        return Footprint(
            rows=n,
            state=state - spared,
            activations=max(0, memory.temp_size_in_bytes - vector),  # beside the gradient
            start=_VECTORS_AT_START * share,
            step=step,
            surplus=0 if accelerator else surplus,
            flops=_flops(traced.jaxpr.jaxpr),
            collectives=collectives(
                shard, mesh, passes, gathered=gathered, gradient=gathered, reduced=passes
            ),
        )

    return footprint


def _flops(jaxpr: Jaxpr) -> int:
    """Operations of convolutions and matrix products."""
    total = 0
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        inner = [_flops(jaxpr) for jaxpr in _parts(params)]
        if name == "dot_general":
            total += _of_product(equation)
        elif name == "conv_general_dilated":
            total += _of_convolution(equation)
        elif name == "cond":
            total += max(inner)
        else:
            total += params.get("length", 1) * sum(inner) if name == "scan" else sum(inner)
    return total


def _parts(params: Mapping[str, Any]) -> Iterator[Jaxpr]:
    """Programs within an operation."""
    for leaf in jax.tree.leaves(list(params.values()), is_leaf=lambda x: isinstance(x, Jaxpr | ClosedJaxpr)):
        if isinstance(leaf, Jaxpr | ClosedJaxpr):
            yield leaf.jaxpr if isinstance(leaf, ClosedJaxpr) else leaf


def _of_product(equation: Any) -> int:
    """Two for each output and summand."""
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    return 2 * prod(equation.outvars[0].aval.shape) * prod(left[axis] for axis in contracted)


def _of_convolution(equation: Any) -> int:
    """Two for each output and summand; those that dilation makes zero are left out, as PyTorch does."""
    kernel, params = equation.invars[1].aval.shape, equation.params
    outputs = kernel[params["dimension_numbers"].rhs_spec[0]]
    return int(
        2 * prod(equation.outvars[0].aval.shape) * prod(kernel) // outputs // prod(params["lhs_dilation"])
    )
