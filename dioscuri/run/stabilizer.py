"""Returns to the last good state when the loss is no longer finite (Metroplex's stabiliser)."""

import math
from collections.abc import Callable, Mapping

import numpy as np

from dioscuri.engine import Engine, State
from dioscuri.hparams.sections import Train


class Stabilizer:
    """Copies weights, averages and moments every `train.stabilizer_interval` steps and at the first step of a
    process. If the loss of such a step is not finite, the previous copy is restored instead.

    The engine's metrics are means over the steps since the last fetch, so they are fetched before and after
    such a step.
    """

    def __init__(self, engine: Engine, options: Train, start: int, say: Callable[[str], None]) -> None:
        self._engine, self._say = engine, say
        self._interval = options.stabilizer_interval if options.stabilizer == "nan" else 0
        self._start = start
        self._shadow: tuple[int, State] | None = None

    def fetches(self, done: int) -> bool:
        """Whether metrics must be fetched after `done` steps."""
        return self._is_due(done) or self._is_due(done + 1)

    def after(self, done: int, metrics: Mapping[str, float]) -> bool:
        """Examine the metrics of step `done`; return whether an older state was restored."""
        if not self._is_due(done):
            return False
        if math.isfinite(metrics["loss"]):
            self._shadow = done, self._engine.state_to_numpy()
            return False
        if self._shadow is None:
            return False
        step, shadow = self._shadow
        skips = int(metrics["skips"])
        counters = {**shadow["counters"], "skips": np.asarray(skips), "skips_in_row": np.asarray(0)}
        self._engine.state_from_numpy({**shadow, "counters": counters})
        self._say(f"step {done}: the loss is not finite: weights and moments of step {step} are restored")
        return True

    def _is_due(self, done: int) -> bool:
        return bool(self._interval) and (done % self._interval == 0 or done == self._start + 1)
