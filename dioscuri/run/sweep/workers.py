"""Trains runs in separate processes, some at a time, and restarts those that crash."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from types import FrameType

from dioscuri.errors import UserError
from dioscuri.files import replacing
from dioscuri.run.sweep.state import State, SweepFolder
from dioscuri.run.sweep.table import Run, Sweep

USER_ERROR = 2
SECONDS_BEFORE_RESTART = 1.0
_SECONDS_BETWEEN_LOOKS = 1.0

Say = Callable[[str], None]


class Workers:
    """Trains runs; the first SIGTERM or SIGINT lets every process save and stop, the second ends them."""

    def __init__(self, folder: SweepFolder, sweep: Sweep, say: Say) -> None:
        self._folder, self._sweep, self._say = folder, sweep, say
        self._stopping = threading.Event()
        self._processes: set[subprocess.Popen[bytes]] = set()
        self._slots = deque(range(sweep.processes))

    @property
    def stopped(self) -> bool:
        """Whether a stop was requested."""
        return self._stopping.is_set()

    def train(self, runs: Sequence[Run], after: Callable[[], None]) -> None:
        """Train the unfinished runs; `after` is called after every run, whatever its outcome."""
        with self._listening(), ThreadPoolExecutor(self._sweep.processes) as pool:
            jobs = {pool.submit(self._guarded, run): run for run in runs}
            for job in as_completed(jobs):
                state = job.result()
                if state is not None:
                    self._say(f"{jobs[job].key}: {state.state}{state.message and ': '}{state.message}")
                    after()

    def _guarded(self, run: Run) -> State | None:
        """Train a run; None if another process trains it or a stop was requested."""
        if self.stopped:
            return None
        slot = self._slots.popleft()
        try:
            with self._folder.lock(run).locked():
                if self._folder.is_finished(run):
                    return None
                return self._train(run, slot)
        except UserError as error:
            self._say(f"{run.key}: left alone: {error}")
            return None
        finally:
            self._slots.append(slot)

    def _train(self, run: Run, slot: int) -> State:
        state = self._folder.state(run)
        state.options = {}
        with replacing(self._folder.configuration(run)) as temporary:
            temporary.write_text(run.text, encoding="utf-8")
        self._wait_for_orphan(run)
        for left in reversed(range(self._sweep.tries)):
            state.state, state.message, state.starts = "running", "", state.starts + 1
            self._folder.keep(run, state)
            self._say(f"{run.key}: {'continues' if self._folder.step(run) else 'begins'}")
            began = time.monotonic()
            code = self._process(run, slot)
            state.seconds += time.monotonic() - began
            state.state, state.message = self._outcome(run, code)
            if state.state == "finished":
                state.options = run.options
            self._folder.keep(run, state)
            if state.state != "failed" or code == USER_ERROR or not left:
                break
            self._say(f"{run.key}: crashed ({state.message}); {left} more {'tries' if left > 1 else 'try'}")
            if self._stopping.wait(SECONDS_BEFORE_RESTART):
                break
        return state

    def _wait_for_orphan(self, run: Run) -> None:
        """Wait for a trainer whose sweep was killed."""
        directory, announced = self._folder.directory(run), False
        while directory.in_use() and not self.stopped:
            if not announced:
                self._say(f"{run.key}: waits for the process that trains it already")
            announced = True
            self._stopping.wait(_SECONDS_BETWEEN_LOOKS)

    def _process(self, run: Run, slot: int) -> int:
        """Start the run once and return its exit code; its output is appended to its log."""
        places = self._folder.places
        program = places.programs / f"{run.twin}_impl" / "train.py"
        runs = self._folder.directory(run).path.parent
        command = [
            *(sys.executable, str(program), str(self._folder.configuration(run)), *run.words),
            *([] if runs == program.parent else [f"run.root={runs}"]),
        ]
        log = self._folder.log(run)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            # In a new session, so that an interrupt from the terminal reaches the run only once, through us.
            process = subprocess.Popen(
                command,
                cwd=places.home(run.twin),
                env=self._environment(slot),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._processes.add(process)
        if self.stopped:
            process.send_signal(signal.SIGTERM)
        code = self._wait(run, process)
        self._processes.discard(process)
        return code

    def _wait(self, run: Run, process: subprocess.Popen[bytes]) -> int:
        """Exit code of a process, which is killed with its children if its log does not grow for too long."""
        limit, log, began = self._sweep.silence, self._folder.log(run), time.time()
        if not limit:
            return process.wait()
        while True:
            try:
                return process.wait(min(limit, _SECONDS_BETWEEN_LOOKS))
            except subprocess.TimeoutExpired:
                if time.time() - max(began, log.stat().st_mtime) > limit:
                    self._say(f"{run.key}: has said nothing for {limit:g} seconds and is ended")
                    os.killpg(process.pid, signal.SIGKILL)
                    return process.wait()

    def _environment(self, slot: int) -> dict[str, str]:
        environment, sweep = dict(os.environ), self._sweep
        if sweep.devices:
            environment["CUDA_VISIBLE_DEVICES"] = sweep.devices[slot % len(sweep.devices)]
        if sweep.processes > 1:
            # Parallel runs share the cores instead of each using all of them.
            threads = max(1, (os.cpu_count() or 1) // sweep.processes)
            environment.setdefault("OMP_NUM_THREADS", str(threads))
        return environment

    def _outcome(self, run: Run, code: int) -> tuple[str, str]:
        """State and message after a process that ended with `code`."""
        if code == 0 and not self.stopped and self._folder.reached_end(run):
            return "finished", ""
        if code == 0:
            return "stopped", f"after {self._folder.step(run)} batches; the same command continues from there"
        reason = f"signal {-code}" if code < 0 else f"exit code {code}"
        if self.stopped:
            return "stopped", reason
        return "failed", f"{reason}: {self._last_line(run)}"

    def _last_line(self, run: Run) -> str:
        lines = self._folder.log(run).read_text(errors="replace").splitlines()
        return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "it printed nothing")

    @contextmanager
    def _listening(self) -> Iterator[None]:
        signals = (signal.SIGTERM, signal.SIGINT)
        before = {number: signal.getsignal(number) for number in signals}

        def request(_number: int, _frame: FrameType | None) -> None:
            again = self.stopped
            self._stopping.set()
            for process in list(self._processes):
                process.send_signal(signal.SIGKILL if again else signal.SIGTERM)

        for number in signals:
            signal.signal(number, request)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
