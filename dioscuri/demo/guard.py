"""What the demo's server lets in: the addresses of the page, bodies of limited size, and files that were
uploaded; no path and no address of another server.

Gradio serves more than the page needs (a proxy, files by address, tools for developers), limits the size of
uploads only, and downloads a file that is given by its address.
"""

import json
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

PAGES = ("/", "/config", "/favicon.ico", "/manifest.json", "/robots.txt", "/theme.css")
FOLDERS = ("/assets/", "/static/", "/svelte/")
API = "/gradio_api/"
CALLS = (
    "app_id", "call", "cancel", "component_server", "config", "file", "heartbeat", "info", "login_check",
    "queue", "reset", "startup-events", "theme.css", "upload", "upload_progress",
)  # fmt: skip


class Guard:
    """ASGI middleware that refuses everything else with one line of text."""

    def __init__(self, app: Any, limit: int) -> None:
        self.app, self.limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        if not is_served(scope["path"]):
            await _answer(send, 404, "there is no such page")
            return
        body = b""
        if scope["method"] not in ("GET", "HEAD"):
            received = await _body(receive, self.limit)
            if received is None:
                await _answer(send, 413, f"a request may have at most {self.limit:,} bytes")
                return
            body = received
        if names_an_address(scope, body):
            await _answer(send, 400, "give a file, not the address of one")
            return
        await self.app(scope, _replay(body, receive), send)


def is_served(path: str) -> bool:
    """Whether the page needs this path of the server."""
    if path.startswith(API):
        call = path[len(API) :]
        if call.startswith("file="):
            return "://" not in call
        return call.rstrip("/").partition("/")[0] in CALLS
    return path in PAGES or path.startswith(FOLDERS)


def names_an_address(scope: Scope, body: bytes) -> bool:
    """Whether a JSON body has a file whose path is an address."""
    headers = dict(scope["headers"])
    if b"multipart/" in headers.get(b"content-type", b""):
        return False
    try:
        paths = list(_paths(json.loads(body))) if body else []
    except (ValueError, RecursionError):
        return False  # the server behind refuses it
    return any("://" in path for path in paths)


def _paths(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(path := value.get("path"), str):
            yield path
        for item in value.values():
            yield from _paths(item)
    elif isinstance(value, list):
        for item in value:
            yield from _paths(item)


async def _body(receive: Receive, limit: int) -> bytes | None:
    """The whole body, or None if it is longer than `limit` bytes."""
    parts, size = [], 0
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > limit:
            return None
        if not message.get("more_body", False):
            return b"".join(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body, and then what comes after it."""
    first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return first.pop() if first else await receive()

    return again


async def _answer(send: Send, status: int, text: str) -> None:
    content = json.dumps({"detail": text}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
