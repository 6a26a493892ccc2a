"""Progress: a bar on a terminal, elsewhere a line from time to time."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
SECONDS_BETWEEN_LINES = 15.0


class Progress:
    """Counts from `start` to `total`, with a note next to the count. Silent processes pass `shown=False`."""

    def __init__(self, what: str, total: int, *, start: int = 0, shown: bool = True) -> None:
        self._what, self._total, self._done, self._shown = what, total, start, shown
        self._note = ""
        self._began, self._start, self._last_line = time.monotonic(), start, time.monotonic()
        self._bar: tqdm | None = None
        if shown and sys.stderr.isatty():
            self._bar = tqdm(total=total, initial=start, desc=what, dynamic_ncols=True)

    def note(self, text: str) -> None:
        """Change the note next to the count."""
        self._note = text

    def advance(self) -> None:
        """Count one."""
        self._done += 1
        if self._bar is not None:
            self._bar.set_postfix_str(self._note, refresh=False)
            self._bar.update()
        elif self._shown and time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            rate = (self._done - self._start) / (self._last_line - self._began)
            print(f"{self._what} {self._done}/{self._total}  {rate:.2f}/s  {self._note}", flush=True)

    def say(self, line: str) -> None:
        """Print a line without breaking the bar."""
        if self._bar is not None:
            self._bar.write(line, file=sys.stdout)
        elif self._shown:
            print(line, flush=True)

    def close(self) -> None:
        """Leave the bar where it is."""
        if self._bar is not None:
            self._bar.close()


def tracked(items: Iterable[Item], what: str, total: int, *, shown: bool) -> Iterator[Item]:
    """Yield items with a progress bar."""
    progress = Progress(what, total, shown=shown)
    try:
        for item in items:
            yield item
            progress.advance()
    finally:
        progress.close()
