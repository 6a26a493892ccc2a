"""One check of a card: its time, its results on disk, and the programs that it starts."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dioscuri.environment import LARGE_PAGES
from dioscuri.files import write_json
from dioscuri.places import PROGRAMS

_LOG_BYTES = 4000
"""Of each program's output that goes to the log."""
_SECONDS_TO_SAVE = 8
"""From the request to stop until a program is killed: a training run saves first."""


@dataclass
class Session:
    """Writes `results.json`, `results.md` and `log.txt` into `out`; all else goes to `work`."""

    out: Path
    work: Path
    end: float  # by time.monotonic
    rehearse: bool = False
    results: dict[str, Any] = field(default_factory=dict)

    def left(self, until: float | None = None) -> float:
        """Seconds until a moment, by default the end."""
        return (self.end if until is None else until) - time.monotonic()

    def write(self) -> None:
        """Write all results so far."""
        write_json(self.out / "results.json", self.results)
        (self.out / "results.md").write_text(as_markdown(self.results), encoding="utf-8")

    def start(self, title: str, words: Sequence[str]) -> "Program":
        """Start a Python program of the project; its output goes to a file."""
        output = self.work / f"{len(list(self.work.glob('*.out'))):03}.out"
        with output.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, *words],
                cwd=PROGRAMS,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return Program(self, title, process, output)

    def run(self, title: str, words: Sequence[str], seconds: float) -> "Program":
        """Run a program to its end, or for so many seconds."""
        program = self.start(title, words)
        program.finish(seconds)
        return program

    def _environment(self) -> dict[str, str]:
        """As for every program of the project, but with empty caches, and with the card shared."""
        caches = {
            "DIOSCURI_CACHE": str(self.work / "cache"),
            "TORCHINDUCTOR_CACHE_DIR": str(self.work / "inductor"),
        }
        shared = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.45", "PYTHONUNBUFFERED": "1"}
        defaults = {"GLIBC_TUNABLES": LARGE_PAGES}
        # The packages of this interpreter are used, whatever the project pins.
        return defaults | dict(os.environ) | caches | shared | {"DIOSCURI_RESTARTED": "1"}


@dataclass
class Program:
    """A program that was started."""

    session: Session
    title: str
    process: subprocess.Popen
    output: Path
    timed_out: bool = False
    begun: float = field(default_factory=time.monotonic)
    seconds: float = 0.0

    def finish(self, seconds: float) -> None:
        """Wait; after so many seconds ask the program to stop, then kill it with all that it started."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(max(0.1, seconds))
        self.timed_out = self.process.poll() is None
        if self.timed_out:
            self._signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(_SECONDS_TO_SAVE)
        self._signal(signal.SIGKILL)
        self.process.wait()
        self.seconds = time.monotonic() - self.begun
        with (self.session.out / "log.txt").open("ab") as log:
            log.write(
                f"== {self.title} ({self.status()}, {self.seconds:.0f} s)\n".encode() + self._tail() + b"\n"
            )

    def status(self) -> str:
        """'done', 'out of time', or the exit code."""
        if self.timed_out:
            return "out of time"
        return "done" if self.process.returncode == 0 else f"failed with code {self.process.returncode}"

    def outcome(self) -> dict[str, Any]:
        """The status and, of a program that failed, its last line."""
        last = self._tail().decode(errors="replace").strip().splitlines()[-1:]
        return {"status": self.status()} | ({} if self.status() == "done" else {"last_line": "".join(last)})

    def records(self) -> list[dict[str, Any]]:
        """The JSON objects that it printed, one a line, even if it did not end well."""
        found = []
        for line in self.output.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("{"):
                with suppress(ValueError):
                    found.append(json.loads(line))
        return found

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def _tail(self) -> bytes:
        return self.output.read_bytes()[-_LOG_BYTES:]


def as_markdown(results: Mapping[str, Any]) -> str:
    """Results as a page: a table of the rows, and a line for every other number."""
    lines = ["# GPU check", ""]
    for name, value in results.items():
        lines += _table(value) if isinstance(value, list) else _listed(name, value)
    return "\n".join(lines) + "\n"


_COLUMNS = {
    "ms": "ms_per_step",
    "first call, s": "first_call_seconds",
    "share of the limit": "share_of_limit",
    "product, TFLOP/s": "product_tflops",
    "peak memory, MB": "peak_memory_mb",
}


def _table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    head = ["row", *_COLUMNS, "status"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in rows:
        cells = [row["row"], *(row.get(key, "") for key in _COLUMNS.values()), row["status"]]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return [*lines, ""]


def _listed(name: str, value: Any, indent: str = "") -> list[str]:
    if isinstance(value, Mapping):
        inner = [line for key, item in value.items() for line in _listed(key, item, indent + "  ")]
        return [f"{indent}- {name}:", *inner]
    return [f"{indent}- {name}: {value}"]
