"""The interface between host logic and tensor code, and the host code that both engines share.

`torch_impl/engine.py` and `jax_impl/engine.py` each have a class `Engine` that implements this protocol.
Only numpy arrays and plain Python values cross it. A family's tensor code is in
`<twin>/families/<family>.py`, its host logic in `dioscuri/families/<family>/logic.py`.

Arrays are NHWC. Pictures are uint8 (B, H, W, C), padded to `data.target_res`. Sounds (B, L, C), uint8 or
uint16, and video clips (B, T, H, W, C) are passed as `image` too. Likelihoods and divergences are in nats.
`Noise` maps names to arrays. If it is None, the engine draws noise as a pure function of (`run.seed`, method,
`step`, process), so exact resumption needs no saved generator state. A method called several times in one
training step, such as for the batches of a validation, needs a different `step` each time, or every batch
gets the same noise. `encode` and `reconstruct` share their posterior noise: equal batch and `step` give equal
z.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import is_dataclass
from inspect import signature
from typing import Any, Protocol

import numpy as np

from dioscuri.errors import UserError

Array = np.ndarray
Batch = Mapping[str, Array]
Noise = Mapping[str, Array]
State = dict[str, dict[str, Array]]
WEIGHTS = {True: "averaged", False: "raw", None: "none"}
"""Kinds of weights by `ema`."""


class InferenceEngine(Protocol):
    """The methods of a family on trained weights. It holds one set of weights, and neither a discriminator
    nor anything of an optimiser.

    Methods take the global batch, the same on every process, and return global results: each process computes
    its share and gathers the rest.
    """

    name: str  # "torch" or "jax"
    process_index: int
    process_count: int
    device_count: int  # over all processes; a global batch is a multiple of it, or is padded to one
    text_device: str  # device of PyTorch for a text encoder

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
        """Run a method of the family with averaged (`ema`) or raw weights, without gradients.

        The first axis of every array of `batch` and of the result is the rows; generation without inputs
        takes {'index': (B,)}. Arguments that are strings, integers or booleans decide what is computed;
        floats, arrays and lists of arrays are data; None stands for the method's default. Raises a
        `UserError` if the family has no such method.

        All families use these names: `evaluate` (terms of the loss, one per row), `reconstruct`, `generate`,
        `encode`, `decode`, `inpaint` (pictures are `image`, uint8 (B, h, w, C) without padding). The other
        inputs and results of a method are documented where it is defined, in `<twin>/families/<family>.py`.
        """

    def barrier(self) -> None:
        """Wait for all processes."""

    def lost(self, error: Exception) -> bool:
        """Whether an error means that another process of the run has ended or does not answer."""

    def state_from_numpy(self, state: State) -> None:
        """Load a state, of which an engine for inference takes the group `model` or `ema`, whichever there
        is. A `UserError` names the first tensor that is missing, unknown or of the wrong shape."""


class Engine(InferenceEngine, Protocol):
    """The tensor operations of a run, training included. Training methods take this process's share of the
    batch."""

    compiles: bool  # whether what is run is compiled first, which takes seconds to minutes

    def initialise(self) -> None:
        """Create the parameters (the family's `initial_parameters`), their average and the optimiser's
        state."""

    def train_step(
        self, batch: Batch, step: int, scalars: Mapping[str, float], noise: Noise | None = None
    ) -> None:
        """One update on this process's share of the global batch. `scalars` holds the schedules' values at
        `step`.

        Metrics and skip counters accumulate on the device until `fetch_metrics`.
        """

    def program(self, batch: Batch, scalars: Mapping[str, float]) -> Hashable:
        """What selects the program of a training step; the first step with a new value compiles one."""

    def fetch_metrics(self) -> dict[str, float]:
        """Means since the last call over steps and processes: the family's metrics under its names, and
        `grad_norm`.

        A vector metric `kl` becomes `kl.0`, `kl.1`, ... Steps whose gradient is not finite are left out of
        the means (NaN if none remain). Besides the means: `skips` (skipped updates since the run began),
        `updates` (applied ones) and `skips_in_row` (the longest sequence of skipped updates that includes a
        step since the last call). Waits for the device. Every process must call it.
        """

    def state_to_numpy(self, *, everywhere: bool = True) -> State:
        """`model`, `ema` and `optimizer` tensors under canonical names, `counters` (skips, updates), and
        `buffers` where the family has any.

        Every process must call it. Without `everywhere`, only process 0 gets the tensors, so that the others
        need no memory for them.
        """

    def memory(self) -> dict[str, int]:
        """Bytes, measured: what a device holds of `weights`, `average` and `optimizer` between steps, and
        `peak`, the most memory that the device (on a CPU: this process) has used so far."""


def weights_of(state: State) -> tuple[bool, dict[str, Array]]:
    """Of a state with one group of weights: whether they are averaged, and the arrays."""
    groups = [group for group in ("model", "ema") if group in state]
    if len(groups) != 1:
        raise ValueError(f"an engine for inference holds one group of weights, not {groups}")
    return groups[0] == "ema", state[groups[0]]


def check_averaged(asked: bool, loaded: bool | None) -> None:
    """Raise a `ValueError` if an engine for inference is asked for weights that it does not hold."""
    if asked is not loaded:
        raise ValueError(f"ema={asked}, but the weights loaded are {WEIGHTS[loaded]}")


def metric_names(sizes: Mapping[str, int]) -> list[str]:
    """Names of a family's metrics, one for each value of a vector, and `grad_norm`."""
    names: list[str] = []
    for name, size in sizes.items():
        names += [f"{name}.{index}" for index in range(size)] if size else [name]
    return [*names, "grad_norm"]


def check_batch(batch_size: int, devices: int, micro_batches: int) -> None:
    """Raise a `UserError` if the devices cannot share a global batch equally."""
    if batch_size % (devices * micro_batches):
        raise UserError(
            f"[train] batch_size {batch_size} must be a multiple of devices x accumulation_steps, "
            f"{devices} x {micro_batches}"
        )


def padded_rows(n: int, multiple: int) -> np.ndarray:
    """Indices of `n` rows, repeated until their number is a multiple of `multiple`."""
    return np.arange(-(-n // multiple) * multiple) % n


def mode(family: Any, method: str) -> Callable[..., Any]:
    """A method of a family by name; a `UserError` if there is none."""
    function: Callable[..., Any] | None = getattr(family, method, None)
    if function is None:
        raise UserError(f"[run] family '{family.hparams.run.family}' has no mode '{method}'")
    return function


def is_mode(value: Any) -> bool:
    """Whether an attribute of a family is a mode, `(model, batch, noise, frozen, **options)`."""
    return callable(value) and [*signature(value).parameters][:4] == ["model", "batch", "noise", "frozen"]


def split_arguments(arguments: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(static arguments, data). Strings, integers, booleans and frozen options are static: they decide what
    is computed. Floats, arrays and sequences of them are data, as arrays or lists of arrays. None is left
    out."""
    given = {name: value for name, value in arguments.items() if value is not None}
    static = {
        name: value for name, value in given.items() if isinstance(value, str | int) or is_dataclass(value)
    }
    return static, {name: _numbers(value) for name, value in given.items() if name not in static}


def _numbers(value: Any) -> Any:
    if isinstance(value, list | tuple) and value and isinstance(value[0], np.ndarray):
        return list(value)
    return np.asarray(value)


def step_numbers(
    scalars: Mapping[str, float], switches: Sequence[str], ema_decay: float
) -> tuple[dict[str, float], dict[str, bool]]:
    """The schedules' values as numbers, with `ema_rate` = 1 - decay (the schedule's `ema_decay` if there is
    one), and as the family's switches, which decide what is computed."""
    numbers = {name: value for name, value in scalars.items() if name not in ("ema_decay", *switches)}
    numbers["ema_rate"] = 1 - scalars.get("ema_decay", ema_decay)
    return numbers, {name: bool(scalars[name]) for name in switches}


def step_program(batch: Batch, scalars: Mapping[str, float], switches: Sequence[str]) -> Hashable:
    """See `Engine.program`: names, shapes and types of the batch's arrays, and the values of the switches."""
    arrays = tuple((name, array.shape, array.dtype) for name, array in batch.items())
    return arrays, tuple(bool(scalars[name]) for name in switches)
