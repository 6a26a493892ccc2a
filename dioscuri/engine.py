"""The one interface between host logic and tensor code, and what both engines do on the host.

`torch_impl/engine.py` and `jax_impl/engine.py` each have a class `Engine` that fulfils this protocol.
Everything that crosses it is numpy or plain Python. A family's tensor code plugs into an engine from
`<twin>/families/<family>.py`, its host logic into the run from `dioscuri/families/<family>/logic.py`.

Arrays are NHWC. Pictures are uint8 (B, H, W, C), padded to `data.target_res`; where the data are sounds (B,
L, C), of 8 bits or uint16, or clips (B, T, H, W, C), these stand under the name `image` too. Likelihoods and
divergences are in nats. `Noise` maps names to arrays; where it is None the engine draws from
its generator, a pure function of (`run.seed`, method, `step`, process): nothing of the generator
needs to be saved to resume exactly. Methods that are called several times for one training step (a validation
of many batches) get another `step` each time, or every batch meets the same noise. `encode` and `reconstruct`
share their posterior noise: equal batch and `step`, equal z.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any, Protocol

import numpy as np

from dioscuri.errors import UserError

Array = np.ndarray
Batch = Mapping[str, Array]
Noise = Mapping[str, Array]
State = dict[str, dict[str, Array]]


class Engine(Protocol):
    """What a twin does for a run.

    Training methods take the batch of this process; the other methods take the global batch, the same on
    every process, and return global results: each process computes its share and all gather them.
    """

    name: str  # "torch" or "jax"
    process_index: int
    process_count: int
    device_count: int  # over all processes; global batch sizes are multiples of it or are padded

    def initialise(self) -> None:
        """Create parameters (`dioscuri.plans.<family>.initial_parameters`), their average and the optimiser's
        state."""

    def train_step(
        self, batch: Batch, step: int, scalars: Mapping[str, float], noise: Noise | None = None
    ) -> None:
        """One update on this process's share of the global batch. `scalars` holds the schedules' values at
        `step`.

        Returns nothing: metrics and skip counters accumulate on the device until `fetch_metrics`.
        """

    def fetch_metrics(self) -> dict[str, float]:
        """Means since the last call over steps and processes: the family's metrics under its names, and
        `grad_norm`.

        A vector metric `kl` gives `kl.0`, `kl.1`, ... Steps whose gradient is not finite are left out of the
        means (NaN where no step is left). Beside the means: `skips` (skipped updates since the run began),
        `updates` (applied ones) and `skips_in_row` (the longest row of skipped updates that touches the steps
        since the last call). Waits for the device; every process calls it.
        """

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
        """Run a method of the family's adapter with averaged (`ema`) or raw weights, without gradients.

        Every array of `batch` and of the result has the rows first; a generation that needs no input passes
        {'index': (B,)}. Arguments that are text, whole numbers or truth values decide what is computed;
        floats, arrays and lists of arrays are data; None stands for the method's default. A `UserError`
        if the family has no such method.

        Families agree on these names: `evaluate` (terms of the loss, one a row), `reconstruct`, `generate`,
        `encode`, `decode`, `inpaint` (pictures are `image`, uint8 (B, h, w, C) without padding). What else a
        method takes and gives is told where the adapter defines it, `<twin>/families/<family>.py`.
        """

    def barrier(self) -> None:
        """Wait for all processes."""

    def state_to_numpy(self) -> State:
        """`model`, `ema` and `optimizer` tensors under canonical names, `counters` (skips, updates), and
        `buffers` where the family has any."""

    def state_from_numpy(self, state: State) -> None:
        """Load such a state. A `UserError` names the first tensor that is missing, unknown or of another
        shape."""


def metric_names(sizes: Mapping[str, int]) -> list[str]:
    """Names of a family's metrics, a vector of `size` values one name a value, and the gradient's norm."""
    names: list[str] = []
    for name, size in sizes.items():
        names += [f"{name}.{index}" for index in range(size)] if size else [name]
    return [*names, "grad_norm"]


def padded_rows(n: int, multiple: int) -> np.ndarray:
    """Indices of `n` rows and, by repetition, as many more as make their number divisible."""
    return np.arange(-(-n // multiple) * multiple) % n


def mode(family: Any, method: str) -> Callable[..., Any]:
    """A method of a family's adapter; a `UserError` if it has none of that name."""
    function: Callable[..., Any] | None = getattr(family, method, None)
    if function is None:
        raise UserError(f"[run] family '{family.hparams.run.family}' has no mode '{method}'")
    return function


def split_arguments(arguments: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(static ones, numbers): text, whole numbers, truth values and frozen options decide what is computed;
    floats, arrays and sequences of them are data, and become arrays or lists of arrays; None is left out."""
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
    """The schedules' values: numbers, with `ema_rate` = 1 - decay (a schedule's `ema_decay`, else the given
    one), and the family's switches, which decide what is computed."""
    numbers = {name: value for name, value in scalars.items() if name not in ("ema_decay", *switches)}
    numbers["ema_rate"] = 1 - scalars.get("ema_decay", ema_decay)
    return numbers, {name: bool(scalars[name]) for name in switches}
