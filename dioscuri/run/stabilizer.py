"""Going back to the last sound state when the loss is no number any more (Metroplex's stabiliser)."""

import math
from collections.abc import Callable, Mapping

import numpy as np

from dioscuri.engine import Engine, State
from dioscuri.hparams.sections import Train


class Stabilizer:
    """Keeps a copy of the weights, averages and moments, made every `train.stabilizer_interval` steps and at
    the first of a process; where the loss of such a step is not finite, the copy is put back instead.

    The engine's metrics are means over the steps since they were fetched last, so that they are fetched
    before such a step and after it.
    """

    def __init__(self, engine: Engine, options: Train, start: int, say: Callable[[str], None]) -> None:
        self._engine, self._say = engine, say
        self._interval = options.stabilizer_interval if options.stabilizer == "nan" else 0
        self._start = start
        self._shadow: tuple[int, State] | None = None

    def fetches(self, done: int) -> bool:
        """Whether metrics are needed after `done` steps."""
        return self._looks(done) or self._looks(done + 1)

    def after(self, done: int, metrics: Mapping[str, float]) -> bool:
        """Look at the metrics of step `done`; whether an older state was put back."""
        if not self._looks(done):
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
        self._say(f"step {done}: the loss is not finite: weights and moments of step {step} are put back")
        return True

    def _looks(self, done: int) -> bool:
        return bool(self._interval) and (done % self._interval == 0 or done == self._start + 1)
