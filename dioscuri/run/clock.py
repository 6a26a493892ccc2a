"""How long a run has trained, on the wall and by the processor."""

import time
from collections.abc import Mapping
from typing import Any

from dioscuri.hparams.sections import Train
from dioscuri.restore import CLOCKS, out_of_time
from dioscuri.run.logs import CPU_SECONDS, SECONDS


class Clock:
    """Seconds of training since the run began, over all its starts, without validations and checkpoints.

    Those of the processor count all threads of this process, and nothing while it waits for a core.
    """

    def __init__(self, options: Train, info: Mapping[str, Any]) -> None:
        """Continue from the information of a checkpoint."""
        self._options = options
        self.wall, self.cpu = (float(info.get(CLOCKS[clock], 0.0)) for clock in ("wall", "cpu"))

    def start(self) -> None:
        """Training begins or goes on: what was between does not count."""
        self._since = time.monotonic(), time.process_time()

    def read(self) -> None:
        """Count the time since the last call."""
        wall, cpu = self._since
        self.start()
        self.wall, self.cpu = self.wall + self._since[0] - wall, self.cpu + self._since[1] - cpu

    def out_of_time(self) -> bool:
        """Read the clock: whether it has reached `time_limit_in_seconds`."""
        self.read()
        return out_of_time(self.info(), self._options)

    def info(self) -> dict[str, float]:
        """The seconds for a checkpoint."""
        return {CLOCKS["wall"]: self.wall, CLOCKS["cpu"]: self.cpu}

    def logged(self) -> dict[str, float]:
        """The seconds for the logs."""
        return {SECONDS: self.wall, CPU_SECONDS: self.cpu}
