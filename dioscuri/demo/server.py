"""The demo's server: Gradio at one address, with limits, without telemetry, files in a temporary folder."""

import os
import signal
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from typing import Any

from PIL import Image

from dioscuri.demo.exhibit import Exhibit
from dioscuri.demo.guard import Guard
from dioscuri.errors import UserError

MEGABYTE = 2**20
MOST_PIXELS = 40_000_000
"""Of a picture; Pillow refuses twice as many."""
MOST_WAITING, MOST_SESSIONS = 20, 100


def require_gradio() -> None:
    """Raise a `UserError` with the command that installs Gradio if it is missing."""
    if find_spec("gradio") is None:
        raise UserError("the demo needs gradio, which is not installed: pip install 'dioscuri[demo]'")


def check_address(host: str, port: int) -> None:
    """Raise a `UserError` if no server can listen there."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(address)
    except OSError as error:
        raise UserError(
            f"--host {host} --port {port}: no server can listen there ({error.strerror or error}): "
            "choose others"
        ) from error


def serve(exhibits: Sequence[Exhibit], host: str, port: int, most_upload: int) -> None:
    """Serve the page until Ctrl-C or SIGTERM; uploads have at most `most_upload` MB."""
    with TemporaryDirectory(prefix="dioscuri-demo-") as folder, _settings(folder):
        made: Any = import_module("dioscuri.demo.page")
        jobs = made.Jobs()
        page = made.build(exhibits, Path(folder), jobs)
        limit = most_upload * MEGABYTE
        page.queue(max_size=MOST_WAITING, default_concurrency_limit=1)
        page.launch(
            server_name=host,
            server_port=port,
            share=False,
            inbrowser=False,
            prevent_thread_lock=True,
            quiet=True,
            max_file_size=limit,
            # What frames an upload in a request is small.
            app_kwargs={
                "middleware": [_middleware(limit + MEGABYTE // 16)],
                "docs_url": None,
                "redoc_url": None,
            },
            allowed_paths=[],
            footer_links=[],
            run_history=False,
            enable_monitoring=False,
            ssr_mode=False,
            mcp_server=False,
            pwa=False,
            state_session_capacity=MOST_SESSIONS,
            theme=made.theme(),
        )
        print(
            f"{', '.join(exhibit.name for exhibit in exhibits)}: open {page.local_url} (Ctrl-C ends it)",
            flush=True,
        )
        stopped = Event()
        signal.signal(signal.SIGTERM, lambda *_: stopped.set())
        try:
            stopped.wait()
        finally:
            page.close(verbose=False)
            jobs.close()


def _middleware(limit: int) -> Any:
    return import_module("starlette.middleware").Middleware(Guard, limit=limit)


@contextmanager
def _settings(folder: str) -> Iterator[None]:
    """Settings of this process that Gradio and Pillow read, inside the block."""
    before, pixels = dict(os.environ), Image.MAX_IMAGE_PIXELS
    os.environ |= {"GRADIO_TEMP_DIR": folder, "GRADIO_ANALYTICS_ENABLED": "False"}
    Image.MAX_IMAGE_PIXELS = MOST_PIXELS
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = pixels
        os.environ.clear()
        os.environ |= before
