"""What host code knows about a run."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dioscuri.checkpoint.directory import RunDirectory
from dioscuri.data import DataSets
from dioscuri.engine import Engine

OnMetrics = Callable[[int, dict[str, float]], object]
Work = Callable[[], None]
"""What is left to do once nothing can be refused any more."""


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
        """Whether this process writes files and prints; of several, only the first does."""
        return self.engine.process_index == 0

    def say(self, line: str = "") -> None:
        """Print a line, once a run."""
        if self.writes:
            print(line, flush=True)
