"""What a training step takes, followed on PyTorch's meta device, whose tensors have shapes and no memory.

One step is followed, whose batch is a prime that divides no size of the network: a storage whose size it
divides grows with the batch, every other one does not. That tells the step's memory for all batches.
"""

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import prod
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop, sdpa_flop

from dioscuri.context import Context
from dioscuri.contract import family_run
from dioscuri.plans.description import RowShapes
from dioscuri.plans.footprint import Footprint, collectives
from dioscuri.plans.mesh import MeshShape
from torch_impl.devices import Devices
from torch_impl.engine import Engine
from torch_impl.families.methods import methods_of
from torch_impl.inference import Runner
from torch_impl.layers.initial import blank
from torch_impl.optim.step import OptimizerState

_CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: sdpa_flop,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: sdpa_backward_flop,
}
_FORMULAS = {**_CPU_ATTENTION, **flop_registry}

_PRIMES = (251, 257, 263, 269, 271, 277, 281, 283, 293)

_UPDATE_VECTORS = 4
"""Temporary vectors (P,) of the optimiser's step on an accelerator; a CPU updates in small pieces."""

_HELD_VECTORS, _NEW_VECTORS = 5, 4
"""Vectors of parameters between steps (parameters, average, two moments and gradient), and those of a state
that is loaded beside them."""

_KERNELS, _GAPS = 50_000_000, 0.13
"""On a CPU: bytes of compiled kernels and their scratch memory, and the share of the tensors that the C
library's allocator adds. Fitted to the peaks that `tools/memory.py check` measures."""

EVERY_BATCH = True
"""Whether one followed step tells the peak of every batch."""

_Line = tuple[int, int]
"""A number of bytes or operations: a constant, and what each row adds."""


class FlopCounter(TorchDispatchMode):
    """Sums the operations of convolutions, matrix products and attention, including backward passes.

    PyTorch's `FlopCounterMode` also tracks modules, which fails if a graph is made inside a function.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator and count it."""
        result = func(*args, **(kwargs or {}))
        if formula := _FORMULAS.get(func.overloadpacket):
            self.total += formula(*args, **(kwargs or {}), out_val=result)
        return result


class Memory(FlopCounter):
    """Follows the bytes of all storages, each a line over the rows of a batch whose number of rows is
    `prime`."""

    def __init__(self, prime: int) -> None:
        super().__init__()
        self.prime = prime
        self.line: _Line = (0, 0)
        self.lines: list[_Line] = []
        self.storages: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator and note the storages of its results."""
        result = super().__torch_dispatch__(func, types, args, kwargs)
        for leaf in result if isinstance(result, tuple | list) else (result,):
            if isinstance(leaf, Tensor):
                self._add(leaf.untyped_storage())
        return result

    def now(self, rows: int) -> int:
        """Bytes of what exists at present."""
        return _at(self.line, rows)

    def peak(self, rows: int) -> int:
        """The most bytes that have existed at once."""
        fixed, of_rows = np.array(self.lines, np.int64).reshape(-1, 2).T
        return int(np.max(fixed + of_rows * rows, initial=0))

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, n = storage._cdata, storage.nbytes()
        if key not in self.storages:
            fixed, of_rows = line = (n, 0) if n % self.prime else (0, n // self.prime)
            self.storages[key] = weakref.ref(storage, lambda _: self._remove(key, line))
            self.line = self.line[0] + fixed, self.line[1] + of_rows
            self.lines.append(self.line)

    def _remove(self, key: int, line: _Line) -> None:
        del self.storages[key]
        self.line = self.line[0] - line[0], self.line[1] - line[1]


class _PlannedDevices(Devices):
    def place(self, array: np.ndarray, dtype: torch.dtype | None = None) -> Tensor:
        """A tensor of the array's shape."""
        return torch.empty(array.shape, dtype=dtype or torch.from_numpy(np.empty(0, array.dtype)).dtype)


class _PlannedRunner(Runner):
    def noise(self, method: str, rows: int, key: tuple[int, int], **options: Any) -> dict[str, Any]:
        """Tensors of the noise's shapes."""
        del key
        specs = self.methods.noise_specs(method, rows, **options)
        return {spec.name: torch.empty(spec.shape, dtype=self.dtype) for spec in specs}


class _PlannedEngine(Engine):
    """An engine on the meta device."""

    def __init__(self, hparams: Any) -> None:
        super().__init__(hparams)
        self.runner = _PlannedRunner(self.family, self.devices, self.dtype)

    def _open_devices(self) -> Devices:
        return _PlannedDevices(torch.device("meta"), 0, 1)

    def _build(self, shards: bool) -> torch.nn.Module:
        del shards
        module: torch.nn.Module = blank(self.family.build)  # its parameters become views of the vector
        return module

    def _frozen(self) -> dict[str, Tensor]:
        formats = {4: torch.channels_last}
        return {
            name: torch.empty(
                shape,
                dtype=self.runner.frozen_dtype(name),
                memory_format=formats.get(len(shape), torch.contiguous_format),
            )
            for name, shape in self.family.frozen_shapes().items()
        }

    def start(self) -> None:
        """What `initialise` does, and a start from a checkpoint."""
        self._set_state(OptimizerState.start(torch.empty(self.layout.size, dtype=self.dtype)))


def follow_step(
    hparams: Any, rows: RowShapes, *, accelerator: bool = False
) -> Callable[[int, MeshShape], Footprint]:
    """From a number of rows and a mesh to what a step takes with them on one of its devices.

    `hparams` are those of a single process on a CPU without compilation. `rows` must be a multiple of
    `train.accumulation_steps`.
    """
    prime, parts, last = _prime(hparams), hparams.train.accumulation_steps, hparams.train.total_train_steps
    arrays = {
        name: np.broadcast_to(np.zeros((), dtype), (prime * parts, *shape))
        for name, (shape, dtype) in rows.items()
    }
    memory = Memory(prime)
    with torch.device("meta"):
        with memory:
            engine = _PlannedEngine(hparams)
            engine.start()
        state, start = memory.now(1), memory.peak(1)
        memory.lines = [memory.line]
        context = cast("Context", SimpleNamespace(hparams=hparams, engine=engine))
        scalars = family_run(context).scalars(last)
        activations, reduced = _prepare(engine, memory)
        with memory, _without_collection():
            engine.train_step(arrays, last, scalars)
    vector, weights = engine.layout.size * engine.dtype.itemsize, engine.trainer.weights.nbytes

    def footprint(n: int, mesh: MeshShape) -> Footprint:
        at_once = n // parts
        shard = hparams.train.shard if mesh.shard > 1 else "none"
        share = _largest_share(engine, mesh.shard) * engine.dtype.itemsize
        # DDP keeps gradients and the buckets in which they travel.
        buckets = weights if mesh.devices > 1 and shard == "none" else 0
        update = _UPDATE_VECTORS * share if accelerator else 0
        spared, gathered = _spread(engine, shard, share)
        step = buckets - spared + max(memory.peak(at_once) + gathered, state + update)
        return Footprint(
            rows=n,
            state=state - spared,
            activations=max((_at(line, at_once) for line in activations), default=0),
            start=start if shard == "none" else state - spared + _NEW_VECTORS * share,
            step=step,
            surplus=0 if accelerator else int(_KERNELS + _GAPS * max(start, step)),
            flops=memory.total * at_once // prime,
            collectives=collectives(
                shard,
                mesh,
                len(activations),
                gathered=weights,
                gradient=vector,
                reduced=len(reduced) // parts,
            ),
        )

    return footprint


@contextmanager
def _without_collection() -> Iterator[None]:
    """What exists must not depend on when garbage is collected."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _prepare(engine: Engine, memory: Memory) -> tuple[list[_Line], list[_Line]]:
    """What each forward pass will leave to its backward pass, and the same for those that end a gradient. The
    update of a CPU, which goes by small pieces, is left out."""
    trainer, noted, last = engine.trainer, [], []
    add_gradient = trainer.add_gradient

    def watched(function: Callable[[Any], tuple[Any, ...]], *, more: bool = False) -> Any:
        before = memory.line

        def forward(model: Any) -> tuple[Any, ...]:
            results = function(model)
            noted.append((memory.line[0] - before[0], memory.line[1] - before[1]))
            if not more:
                last.append(noted[-1])
            return results

        return add_gradient(forward, more=more)

    trainer.add_gradient = watched  # type: ignore[method-assign] # of this engine alone
    trainer.step = lambda *_, **__: torch.zeros(())
    return noted, last


def _largest_share(engine: Engine, shard: int) -> int:
    """Values of the first process's rows of all parameters; no other has more."""
    shapes = (slot.shape for slot in engine.layout.slots)
    return sum(-(-rows // shard) * prod(rest) for rows, *rest in shapes)


def _spread(engine: Engine, shard: str, share: int) -> tuple[int, int]:
    """Bytes that a process does not hold between steps since it has its share of `share` bytes alone, and
    those of parameters and gradients that it gathers in a step."""
    if shard == "none":
        return 0, 0
    weights, vector = engine.trainer.weights, engine.layout.size * engine.dtype.itemsize
    copies = 2 * weights.nbytes if weights.dtype != engine.dtype else 0  # of parameters and average
    # FSDP2 gathers from copies. Its largest units are there at once: the one that is computed, the next, and
    # the gradient of the last.
    spared = _HELD_VECTORS * vector + copies - (_HELD_VECTORS + 1) * share
    values = (
        3 * _largest_unit(engine) if shard == "parameters" else engine.layout.size + _largest_unit(engine)
    )
    return spared, weights.itemsize * values


def _largest_unit(engine: Engine) -> int:
    """Values of the parameters that are gathered at once: those of a block, or all outside the blocks."""
    blocks = [sum(p.numel() for p in b.parameters()) for b in engine.family.blocks(engine.models[False])]
    return max(*blocks, engine.layout.size - sum(blocks)) if blocks else engine.layout.size


def _prime(hparams: Any) -> int:
    """One that divides neither a parameter's size nor that of all together."""
    methods = methods_of(hparams)
    sizes = [prod(shape) for shape in methods.parameter_shapes().values()]
    sizes += [prod(shape) for shape in methods.frozen_shapes().values()]
    return next(prime for prime in _PRIMES if all(n % prime for n in (*sizes, sum(sizes))))


def _at(line: _Line, rows: int) -> int:
    return line[0] + line[1] * rows
