"""The folder of a sweep, `logs-sweep-<name>/`, and the state of each run.

configurations/<twin>-<run>.cfg   the run's configuration
logs/<twin>-<run>.log             its output
runs/<twin>-<run>/state.json      its progress, next to the lock of the process that trains it
results.csv  curves.png           the results
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dioscuri.checkpoint import store
from dioscuri.checkpoint.directory import RunDirectory
from dioscuri.errors import UserError
from dioscuri.files import read_json, write_json
from dioscuri.places import Places, runs_folder
from dioscuri.restore import Start
from dioscuri.run.sweep.table import Run

STATES = ("waiting", "submitted", "running", "stopped", "failed", "finished")


@dataclass
class State:
    """Progress of a run. `seconds` is the total time of its processes, `options` those with which it
    finished."""

    state: str = "waiting"
    starts: int = 0
    seconds: float = 0.0
    message: str = ""
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SweepFolder:
    """The folder that a sweep writes to, and the places of its runs."""

    places: Places
    name: str

    @property
    def path(self) -> Path:
        return self.places.results() / f"logs-sweep-{self.name}"

    def configuration(self, run: Run) -> Path:
        return self.path / "configurations" / f"{run.key}.cfg"

    def log(self, run: Run) -> Path:
        return self.path / "logs" / f"{run.key}.log"

    def lock(self, run: Run) -> RunDirectory:
        """The lock of the process that trains the run."""
        return RunDirectory(self.path / "runs" / run.key)

    def directory(self, run: Run) -> RunDirectory:
        """The run's folder."""
        return RunDirectory.of(runs_folder(run.hparams.run.root, self.places.home(run.twin)), run.name)

    def state(self, run: Run) -> State:
        """The recorded state of the run; a `UserError` if the file is damaged."""
        path = self._state(run)
        if not path.exists():
            return State()
        content = read_json(path, f"state of the run '{run.name}'")
        try:
            state = State(**content)
        except TypeError as error:
            raise UserError(f"{path} is damaged: remove it (the run itself stays)") from error
        return state

    def keep(self, run: Run, state: State) -> None:
        """Record the state of the run."""
        write_json(self._state(run), asdict(state))

    def is_finished(self, run: Run) -> bool:
        """Whether the run exists and finished with the options that the table now gives it."""
        state = self.state(run)
        finished = state.state == "finished" and state.options == run.options
        return finished and self.reached_end(run)

    def reached_end(self, run: Run) -> bool:
        """Whether its newest checkpoint is that of its end and its report is written."""
        directory, options = self.directory(run), run.hparams.train
        if not (directory.path / "report.json").exists():
            return False
        timed = options.time_limit_in_seconds > 0 and self.step(run) > 0
        info = store.load(directory.checkpoints, groups=()).info if timed else {}
        return Start(self.step(run), info).at_end(options)

    def step(self, run: Run) -> int:
        """Step of its newest checkpoint; 0 without one."""
        return max(store.steps(self.directory(run).checkpoints), default=0)

    def _state(self, run: Run) -> Path:
        return self.lock(run).path / "state.json"
