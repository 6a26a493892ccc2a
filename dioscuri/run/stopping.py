"""Stopping on request: the first SIGTERM or SIGINT finishes the step and saves, the second ends at once."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from dioscuri.engine import Engine


class Stop:
    """Whether and when a run should end.

    Several processes must stop at the same step, or one waits forever in a collective. Process 0 decides:
    before a step whose metrics will be fetched, it writes that step to a file. No process can finish a step
    that process 0 has not begun, so after the fetch every process sees the file.
    """

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.alone = engine.process_count == 1
        self.requested = False
        self._decides = engine.process_index == 0
        self._file = folder / "stop"
        if self._decides:
            self._file.unlink(missing_ok=True)

    def announce(self, step: int) -> None:
        """Write the step to the file if asked to stop. To be called before a
        step whose metrics are fetched."""
        if self.requested and self._decides and not self.alone:
            self._file.write_text(str(step))

    def after(self, step: int, *, fetched: bool) -> bool:
        """Whether to end after this step."""
        if self.alone:
            return self.requested
        return fetched and self._file.exists() and self._file.read_text() == str(step)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Treat SIGTERM and SIGINT as requests to stop within the block."""
        signals = (signal.SIGTERM, signal.SIGINT)
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
