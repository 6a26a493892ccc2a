"""Stopping on request, when the first SIGTERM or SIGINT finishes the step and saves and the second ends at
once, and at the end of the time."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import current_thread, main_thread
from types import FrameType

from dioscuri.engine import Engine

REQUEST, TIME = "request", "time"


class Stop:
    """Whether and when a run should end: on request, or when `out_of_time` says so.

    Several processes must stop at the same step, or one waits forever in a collective. Process 0 decides:
    before a step whose metrics will be fetched, it writes that step to a file. No process can finish a step
    that process 0 has not begun, so after the fetch every process sees the file.
    """

    def __init__(self, engine: Engine, folder: Path, out_of_time: Callable[[], bool]) -> None:
        self.alone = engine.process_count == 1
        self.requested, self._out_of_time = False, out_of_time
        self._decides = engine.process_index == 0
        self._file = folder / "stop"
        if self._decides:
            self._file.unlink(missing_ok=True)

    def announce(self, step: int) -> None:
        """Write the step and the reason to the file if the run should end. To be called before a
        step whose metrics are fetched."""
        reason = self._reason()
        if reason and self._decides and not self.alone:
            self._file.write_text(f"{step} {reason}")

    def after(self, step: int, *, fetched: bool) -> str:
        """Why to end after this step, `REQUEST` or `TIME`, or '' to go on."""
        if self.alone:
            return self._reason() if fetched or self.requested else ""
        if not fetched or not self._file.exists():
            return ""
        at, reason = self._file.read_text().split()
        return reason if at == str(step) else ""

    def _reason(self) -> str:
        if self.requested:
            return REQUEST
        return TIME if self._out_of_time() else ""

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Treat SIGTERM and SIGINT as requests to stop within the block. Only the main thread gets signals:
        another one runs to its end."""
        signals = (signal.SIGTERM, signal.SIGINT) if current_thread() is main_thread() else ()
        before = {number: signal.getsignal(number) for number in signals}

        def request(_number: int, _frame: FrameType | None) -> None:
            self.requested = True
            for number in signals:
                signal.signal(number, signal.SIG_DFL)

        for number in signals:
            signal.signal(number, request)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
