"""The folder of a sweep, `logs-sweep-<name>/`, and what is known of each of its runs.

configurations/<twin>-<run>.cfg   what was started
logs/<twin>-<run>.log             what it printed
runs/<twin>-<run>/state.json      how far it came, beside the lock of whoever trains it
results.csv  curves.png           what came out
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dioscuri.checkpoint import store
from dioscuri.checkpoint.directory import RunDirectory
from dioscuri.errors import UserError
from dioscuri.files import read_json, write_json
from dioscuri.places import Places, runs_folder
from dioscuri.run.sweep.table import Run

STATES = ("waiting", "submitted", "running", "stopped", "failed", "finished")


@dataclass
class State:
    """What is known of a run. `seconds` is how long its processes lived, `options` those that it finished
    with."""

    state: str = "waiting"
    starts: int = 0
    seconds: float = 0.0
    message: str = ""
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SweepFolder:
    """Where a sweep keeps what it writes, and where its runs live."""

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
        """Held by whoever trains the run."""
        return RunDirectory(self.path / "runs" / run.key)

    def directory(self, run: Run) -> RunDirectory:
        """The run's own folder."""
        return RunDirectory.of(runs_folder(run.hparams.run.root, self.places.home(run.twin)), run.name)

    def state(self, run: Run) -> State:
        """What was last written of the run; a `UserError` if that is damaged."""
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
        """Write what is known of the run."""
        write_json(self._state(run), asdict(state))

    def is_finished(self, run: Run) -> bool:
        """Whether it came to its end with the options that the table gives it now, and is still there."""
        state = self.state(run)
        finished = state.state == "finished" and state.options == run.options
        return finished and self.reached_end(run)

    def reached_end(self, run: Run) -> bool:
        """Whether its newest checkpoint is the last one, and its report is written."""
        directory = self.directory(run)
        report = directory.path / "report.json"
        return self.step(run) >= run.hparams.train.total_train_steps and report.exists()

    def step(self, run: Run) -> int:
        """Batches of its newest checkpoint; 0 without one."""
        return max(store.steps(self.directory(run).checkpoints), default=0)

    def _state(self, run: Run) -> Path:
        return self.lock(run).path / "state.json"
