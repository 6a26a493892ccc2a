"""The context of a run: what its host code works with."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dioscuri.checkpoint.directory import RunDirectory
from dioscuri.data import DataSets
from dioscuri.engine import Engine

OnMetrics = Callable[[int, dict[str, float]], object]
Work = Callable[[], None]
"""The work that remains once all checks have passed."""


@dataclass(frozen=True)
class Context:
    """A run: its options (the `HParams` of its family), its folder, its pictures and the engine that
    computes. `on_metrics(step, metrics)` is called whenever metrics are read from the device."""

    hparams: Any
    directory: RunDirectory
    sets: DataSets
    engine: Engine
    on_metrics: OnMetrics | None = None

    @property
    def writes(self) -> bool:
        """Whether this process writes files and prints: only the first process does."""
        return self.engine.process_index == 0

    def say(self, line: str = "") -> None:
        """Print a line, from the first process only."""
        if self.writes:
            print(line, flush=True)
