"""Stopping on request: the first SIGTERM or SIGINT lets the step finish and saves, the second ends it."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from dioscuri.engine import Engine


class Stop:
    """Whether and when a run should end.

    Several processes must leave at the same step, or one waits for ever in a collective. Process 0 decides:
    before a step whose metrics will be fetched it writes that step into a file. No process can finish a step
    that process 0 has not begun, so that every process finds the file once it has fetched.
    """

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.alone = engine.process_count == 1
        self.requested = False
        self._decides = engine.process_index == 0
        self._file = folder / "stop"
        if self._decides:
            self._file.unlink(missing_ok=True)

    def announce(self, step: int) -> None:
        """Called by every process before a step whose metrics will be fetched."""
        if self.requested and self._decides and not self.alone:
            self._file.write_text(str(step))

    def after(self, step: int, *, fetched: bool) -> bool:
        """Whether to end after this step."""
        if self.alone:
            return self.requested
        return fetched and self._file.exists() and self._file.read_text() == str(step)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take SIGTERM and SIGINT as requests for the time of the block."""
        wanted = (signal.SIGTERM, signal.SIGINT)
        before = {number: signal.getsignal(number) for number in wanted}

        def request(_number: int, _frame: FrameType | None) -> None:
            self.requested = True
            for number in wanted:
                signal.signal(number, signal.SIG_DFL)

        for number in wanted:
            signal.signal(number, request)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
