"""Runs a family's methods on a network, for the engine and for the models of the Python interface."""

import os
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from dioscuri.contract import family_of
from dioscuri.engine import Array, mode, padded_rows, split_arguments, step_numbers
from dioscuri.errors import UserError, kind_of, quoted
from dioscuri.inputs import check_lengths
from dioscuri.plans.layout import check_shapes
from dioscuri.plans.lora import BASE, adapter_noise, adapters_of, network_shapes, without_adapters
from dioscuri.plans.noise import NoiseSpec
from jax_impl.devices import COMPUTE_DTYPES, Devices, check_precision
from jax_impl.families.lora import build_network
from jax_impl.families.methods import methods_of
from jax_impl.layers.dropout import seed_dropout
from jax_impl.layers.lora import set_masks, trained_kind
from jax_impl.noise import STREAMS, draw_from, draw_noise
from jax_impl.optim.flat import canonical_name, memory_axes

Arrays = Mapping[str, Array]

MOST_PROGRAMS = 64


class Runner:
    """Runs methods: places rows on the devices, draws noise, compiles each method once, and fetches the
    results. Noise and floats have type `dtype`. `merge` makes the network from its tree of weights."""

    def __init__(
        self, methods: Any, devices: Devices, dtype: Any, merge: Callable[[Any], nnx.Module]
    ) -> None:
        self.methods, self.devices, self.dtype, self.merge = methods, devices, dtype, merge
        self.compiled: dict[Hashable, Any] = {}

    def run(
        self,
        method: str,
        weights: Any,
        batch: Arrays,
        frozen: Mapping[str, jax.Array],
        *,
        key: tuple[int, int],
        noise: Arrays | None = None,
        **arguments: Any,
    ) -> dict[str, Array]:
        """Run a method on the global batch, each device on its rows; repeated rows fill the batch.

        Noise is drawn from the key (seed, step), or given as arrays with rows first.
        """
        function = mode(self.methods, method)
        hparams = self.methods.hparams
        given = family_of(hparams).arguments(hparams, method, arguments)
        options, numbers = split_arguments(given)
        n = check_lengths(batch)
        rows, share = padded_rows(n, self.devices.device_count), self.devices.share
        arrays = {name: self.devices.place(share(array[rows])) for name, array in batch.items()}
        if noise is None:
            drawn = self.noise(method, len(rows), key, **options)
        else:
            drawn = self.placed({name: share(np.asarray(array)[rows]) for name, array in noise.items()})

        def run(weights: Any, arrays: Any, frozen: Any, drawn: Any, numbers: Any) -> dict[str, jax.Array]:
            return function(self.merge(weights), arrays, drawn, frozen, **numbers, **options)

        compiled = self.jit(run, (method, *options.items()), out_shardings=self.devices.sharded)
        results = compiled(weights, arrays, frozen, drawn, self._arrays(numbers))
        return {name: self.devices.to_numpy(value)[:n] for name, value in results.items()}

    def caller(self, weights: Any, frozen: Mapping[str, jax.Array]) -> Callable[..., dict[str, jax.Array]]:
        """`run` on one device for many small calls: the tree of weights is flattened once, since its Python
        would take longer than the network, and arrays stay on the device."""
        leaves, tree = jax.tree.flatten(weights)

        def call(method: str, batch: Mapping[str, Any], **options: Any) -> dict[str, jax.Array]:
            def run(leaves: Any, arrays: Any, frozen: Any) -> dict[str, jax.Array]:
                model = self.merge(jax.tree.unflatten(tree, leaves))
                result: dict[str, jax.Array] = mode(self.methods, method)(
                    model, arrays, {}, frozen, **options
                )
                return result

            results: dict[str, jax.Array] = self.jit(run, ("caller", method, *options.items()))(
                leaves, dict(batch), dict(frozen)
            )
            return results

        return call

    def noise(self, method: str, rows: int, key: tuple[int, int], **options: Any) -> dict[str, jax.Array]:
        """The noise of a method for `rows` rows of all processes."""
        specs = tuple(self.methods.noise_specs(method, rows, **options))
        if not specs:
            return {}
        spread, whole = self.devices.sharded, self.devices.replicated
        shardings = {spec.name: whole if spec.kind == "generator" else spread for spec in specs}
        draw = self.jit(partial(draw_noise, specs, dtype=self.dtype), specs, out_shardings=shardings)
        seed, step = key
        if seed >= 2**32:  # keys are made from 32 bits
            seed = int(np.random.SeedSequence(seed).generate_state(1)[0])
        return draw(tuple(np.uint32(number % 2**32) for number in (seed, STREAMS[method], step)))

    def placed(self, arrays: Arrays) -> dict[str, jax.Array]:
        """Arrays on the devices, with their rows sharded."""
        return {name: self.devices.place(array, self.dtype) for name, array in arrays.items()}

    def frozen_dtype(self, name: str) -> Any:
        """Type of a frozen array: the weights of an adapted base are kept as the network computes with them,
        others as floats are."""
        is_base = name.startswith(BASE)
        return COMPUTE_DTYPES[self.methods.hparams.train.precision] if is_base else self.dtype

    def jit(self, function: Any, key: Hashable, **options: Any) -> Any:
        """The compiled function. The latest `MOST_PROGRAMS` are kept: each choice of options has its own."""
        compiled = self.compiled.get(key)
        if compiled is None:
            compiled = jax.jit(function, compiler_options=self.devices.compiler_options, **options)
            self.compiled[key] = compiled
            for oldest in list(self.compiled)[:-MOST_PROGRAMS]:
                self.compiled.pop(oldest, None)
        return compiled

    def _arrays(self, numbers: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments that are the same for every row."""
        make = partial(np.asarray, dtype=self.dtype)
        return {
            name: [make(item) for item in value] if isinstance(value, list) else make(value)
            for name, value in numbers.items()
        }


class Network:
    """See `dioscuri.face.network.Network`."""

    name = "jax"

    def __init__(
        self, hparams: Any, weights: Arrays, device: Any = None, buffers: Mapping[str, Any] | None = None
    ) -> None:
        self.hparams, self.precision = hparams, hparams.train.precision
        chosen = open_device(device)
        check_precision(self.precision, chosen)
        with self.arithmetic():
            self.methods = methods_of(without_adapters(hparams))
            self.shapes = network_shapes(hparams, self.methods.parameter_shapes())
            build = partial(build_network, self.methods, adapters_of(hparams))
            dtype = np.float64 if self.precision == "float64" else np.float32
            split: Any = nnx.split(nnx.eval_shape(build), nnx.Param, ...)
            self.graph, params, self.rest = split
            self.runner = Runner(
                self.methods, Devices(Mesh(np.array([chosen]), ("data",)), 0, 1), dtype, self._merge
            )
            self.module: Any = self._merge(tree_of(params, weights, self.shapes, self.precision, chosen))
            seed_dropout(self.module, 0)
            self._frozen: dict[str, jax.Array] | None = None
            first = self.methods.initial_buffers(hparams.run.seed) if buffers is None else buffers
            self.buffers = {
                name: jax.device_put(np.asarray(array, dtype), chosen) for name, array in first.items()
            }

    def __reduce__(self) -> tuple[Any, ...]:
        """For pickle, which can read neither compiled programs nor devices."""
        platform = self.device.platform
        device = f"{platform}:{jax.devices(platform).index(self.device)}"
        buffers = {name: np.asarray(array) for name, array in self.buffers.items()}
        return Network, (self.hparams, self.weights(), device, buffers)

    @property
    def device(self) -> jax.Device:
        """The device of the weights."""
        return next(iter(jax.tree.leaves(self.state)[0].devices()))

    @property
    def state(self) -> nnx.State:
        """The module's parameters; with adapters, theirs alone. Their values stay as they are now: what
        `nnx.state` gives would follow the module."""
        state: nnx.State = jax.tree.map(
            lambda array: array, nnx.state(self.module, trained_kind(self.module))
        )
        return state

    @state.setter
    def state(self, value: nnx.State) -> None:
        self._check_state(value)
        nnx.update(self.module, value)

    @property
    def frozen(self) -> dict[str, jax.Array]:
        """Arrays that are neither trained nor saved, read when first needed, perhaps while a function is
        traced."""
        if self._frozen is None:
            with self.arithmetic(), jax.ensure_compile_time_eval():
                self._frozen = {
                    name: jax.device_put(np.asarray(array, self.runner.dtype), self.device)
                    for name, array in self.methods.frozen().items()
                }
        return self._frozen

    def machine(self) -> dict[str, Any]:
        """What, beside versions, decides how results are rounded."""
        # XLA starts a thread for every processor that the process may use.
        usable = getattr(os, "sched_getaffinity", None)
        threads = len(usable(0)) if usable else os.cpu_count()
        return {"device": self.device.device_kind, "threads": threads}

    def run(
        self,
        method: str,
        batch: Mapping[str, Any],
        *,
        seed: int = 0,
        step: int = 0,
        noise: Mapping[str, Any] | None = None,
        **arguments: Any,
    ) -> dict[str, Array]:
        """Run a method of the family."""
        frozen = self.frozen if self.methods.uses_frozen(method) else {}
        with self.arithmetic():
            return self.runner.run(
                method, self._parameters, batch, frozen, key=(seed, step), noise=noise, **arguments
            )

    def caller(self) -> Callable[..., dict[str, jax.Array]]:
        """`run` without noise and with arrays that stay on the device."""
        call = self.runner.caller(self._parameters, self.frozen)

        def within(method: str, batch: Mapping[str, Any], **options: Any) -> dict[str, jax.Array]:
            with self.arithmetic():
                return call(method, batch, **options)

        return within

    def noise_specs(self, method: str, rows: int, **options: Any) -> tuple[NoiseSpec, ...]:
        """The noise that a method takes."""
        specs = self.methods.noise_specs(method, rows, **options)
        return (*specs, *adapter_noise(self.hparams, self.methods.parameter_shapes(), method, rows))

    def loss(
        self,
        state: nnx.State,
        batch: Mapping[str, Any],
        key: jax.Array,
        buffers: Mapping[str, jax.Array] | None = None,
        *,
        scalars: Mapping[str, float],
        noise: Mapping[str, Any] | None = None,
        tokenizer: Any = None,
    ) -> tuple[jax.Array, dict[str, Any]]:
        """The family's training objective and metrics at the parameters `state`, a pure function; the key
        draws `noise` if it is None. A model with `buffers`, its own by default, returns new ones in the
        metrics."""
        self._check_state(state)
        if noise is None and not isinstance(key, jax.Array | np.ndarray):
            raise UserError(f"loss takes a key, such as jax.random.key(0), not {quoted(key)}")
        with self.arithmetic():
            rows = {name: jnp.asarray(value) for name, value in batch.items()}
            if tokenizer is not None:
                rows = tokenizer.tokenised(rows)
            if noise is None:
                specs = self.noise_specs("train_step", len(next(iter(rows.values()))))
                drawn = draw_from(specs, key, self.runner.dtype)
            else:
                drawn = {name: jnp.asarray(array, self.runner.dtype) for name, array in noise.items()}
            split: Any = nnx.split(self.module, trained_kind(self.module), ...)
            graph, _, rest = split
            numbers, switches = step_numbers(scalars, self.methods.switches, 0.0)
            values = {name: np.asarray(value, self.runner.dtype) for name, value in numbers.items()}
            current = self.buffers if buffers is None else buffers
            module: Any = nnx.merge(graph, state, rest)
            if options := adapters_of(self.hparams):
                set_masks(module, drawn, options.dropout)
            loss, metrics, new = self.methods.loss(
                module, rows, drawn, values | switches, current, self.frozen
            )
        return loss, {**metrics, "buffers": new} if new else metrics

    def with_buffers(self, state: nnx.State, buffers: Mapping[str, jax.Array]) -> nnx.State:
        """The state with the parameters that follow from new buffers."""
        self._check_state(state)
        shapes = self.shapes
        leaves = {canonical_name(path): (path, leaf[...]) for path, leaf in nnx.to_flat_state(state)}
        with self.arithmetic():
            parameters = {
                name: _to_canonical(path, leaf, shapes[name]) for name, (path, leaf) in leaves.items()
            }
            new = self.methods.overwritten(buffers, parameters)
            arrays = [
                _from_canonical(path, new[name], leaf) if name in new else leaf
                for name, (path, leaf) in leaves.items()
            ]
        tree: nnx.State = jax.tree.unflatten(jax.tree.structure(state), arrays)
        return tree

    def tokenised(self, rows: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Rows whose pictures are replaced by their tokens (B, L)."""
        if "image" not in rows:
            return dict(rows)
        others = {name: value for name, value in rows.items() if name != "image"}
        encode, model = mode(self.methods, "encode"), self._merge(self._parameters)
        with self.arithmetic():
            tokens = encode(model, {"image": rows["image"]}, {}, self.frozen)["tokens"]
        return others | {"tokens": jax.lax.stop_gradient(tokens.reshape(len(tokens), -1))}

    def weights(self) -> dict[str, Array]:
        """Parameters under canonical names and in canonical layouts, float32 or float64."""
        wide = np.float64 if self.precision == "float64" else np.float32
        shapes, arrays = self.shapes, {}
        for path, leaf in nnx.to_flat_state(self._parameters):
            name = canonical_name(path)
            array = np.asarray(leaf[...]).astype(wide)
            arrays[name] = np.ascontiguousarray(_to_canonical(path, array, shapes[name]))
        return arrays

    @contextmanager
    def arithmetic(self) -> Iterator[None]:
        """Within the block, use the precision of the options: no TF32, and float64 if it is set."""
        with ExitStack() as stack:
            if self.precision == "float32":
                stack.enter_context(jax.default_matmul_precision("highest"))
            if self.precision == "float64":
                stack.enter_context(jax.enable_x64(True))
            yield

    def _check_state(self, given: Any) -> None:
        """Raise a `UserError` if this cannot be a state of the module."""
        shapes, expected = (
            [np.shape(leaf) for leaf in jax.tree.leaves(state)] for state in (given, self.state)
        )
        if shapes != expected:
            raise UserError(
                f"state must be {len(expected)} arrays of the shapes of model.state; got "
                f"{kind_of(given)} with {len(shapes)}"
            )

    @property
    def _parameters(self) -> nnx.State:
        """All parameters of the module."""
        parameters: nnx.State = nnx.state(self.module, nnx.Param)
        return parameters

    def _merge(self, params: Any) -> nnx.Module:
        module: nnx.Module = nnx.merge(self.graph, params, self.rest)
        return module


def open_device(device: Any) -> jax.Device:
    """A device by platform ('cpu', 'gpu', 'tpu', 'cuda:1'), None for JAX's default; a `UserError` if it is
    missing."""
    if isinstance(device, jax.Device):
        return device
    if device is None:
        return jax.devices()[0]
    platform, _, number = str(device).partition(":")
    try:
        return jax.devices(platform)[int(number or 0)]
    except (RuntimeError, IndexError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"device {device!r} cannot be used: {reason}") from error


def tree_of(
    params: nnx.State, weights: Arrays, shapes: Mapping[str, tuple[int, ...]], precision: str, device: Any
) -> nnx.State:
    """The tree of parameters with its values from canonical tensors."""
    check_shapes(weights, shapes)
    dtype, leaves = COMPUTE_DTYPES[precision], []
    for path, leaf in nnx.to_flat_state(params):
        array = _from_canonical(path, weights[canonical_name(path)], leaf)
        leaves.append(jax.device_put(jnp.asarray(array, dtype), device))
    tree: nnx.State = jax.tree.unflatten(jax.tree.structure(params), leaves)
    return tree


def _to_canonical(path: tuple[Any, ...], array: Any, shape: tuple[int, ...]) -> Any:
    """A parameter in the model's layout -> in its canonical shape."""
    axes = memory_axes(str(path[-1]), len(shape))
    return array.reshape([shape[axis] for axis in axes]).transpose(np.argsort(axes))


def _from_canonical(path: tuple[Any, ...], array: Any, leaf: Any) -> Any:
    """The inverse: a canonical array -> the shape of the model's parameter."""
    return array.transpose(memory_axes(str(path[-1]), array.ndim)).reshape(leaf.shape)
