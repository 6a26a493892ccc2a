"""Calls that the page makes of models: their progress, their end on request, and errors as messages."""

from collections.abc import Callable
from html import escape
from threading import Event, Lock
from typing import Any

import gradio as gr

from dioscuri.demo.exhibit import Exhibit
from dioscuri.errors import UserError

SECONDS_TO_END = 60


class Cancelled(Exception):
    """The visitor has ended the call."""


class Jobs:
    """The calls of all sessions, of which one runs at a time."""

    def __init__(self) -> None:
        self.running = Lock()
        self.calls: list[tuple[str, Event]] = []
        """Session of every call that runs or waits, and the event that ends it."""

    def cancel(self, request: gr.Request) -> None:
        """End the calls of a session, the running one after its batch."""
        for session, ended in list(self.calls):
            if session == str(request.session_hash):
                ended.set()

    def close(self) -> None:
        """End all calls and wait for the running one: Python cannot exit while it computes."""
        for _, ended in list(self.calls):
            ended.set()
        self.running.acquire(timeout=SECONDS_TO_END)

    def job(self, exhibit: Exhibit, work: Callable[..., Any]) -> Callable[..., Any]:
        """A function for an event of the page that does the work with one model."""

        def run(request: gr.Request, progress: Any = gr.Progress(), *values: Any) -> Any:  # noqa: B008
            call = (str(request.session_hash), Event())

            def on_batch(done: int, rows: int) -> None:
                if call[1].is_set():
                    raise Cancelled
                progress((done, rows), unit="pictures")

            self.calls.append(call)
            try:
                with self.running, exhibit.watched(on_batch):
                    return work(*values)
            except UserError as error:
                raise gr.Error(escape(str(error), quote=False), print_exception=False) from error
            except Cancelled as error:
                raise gr.Error("cancelled", print_exception=False) from error
            finally:
                self.calls.remove(call)

        run.__name__ = work.__name__.strip("<>")
        return run
