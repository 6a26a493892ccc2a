"""Models of the Hugging Face hub: their configuration and weights in a cache folder of this machine.

The variable HF_ENDPOINT names another server with the same addresses, DIOSCURI_CACHE another folder than
`~/.cache/dioscuri`.
"""

import http.client
import os
import re
import urllib.error
import urllib.parse
import urllib.request
from email.message import Message
from pathlib import Path

from dioscuri.checkpoint.tensor_files import WEIGHTS
from dioscuri.download import fetch
from dioscuri.errors import UserError

CONFIG = "config.json"
_ID = re.compile(r"([A-Za-z0-9][\w.-]*/[\w.-]+)((?:/\w[\w.-]*)*)")
_SECONDS = 30.0


class _Stay(urllib.request.HTTPRedirectHandler):
    """Answers with the redirection itself, whose headers tell the file's checksum."""

    def redirect_request(self, *_arguments: object) -> None:
        return None


def local_folder(where: str | Path, revision: str = "main") -> Path:
    """The folder or file `where`, or the cached copy of the hub's model of that name.

    A name is `owner/model`, with the folder inside of it where there is one: `owner/model/vae`. Downloads go
    on where they were interrupted, are verified by the hub's checksums, and are not repeated. A `UserError`
    where there is neither folder nor model, and where the hub cannot be reached.
    """
    path = Path(where)
    named = _ID.fullmatch(str(where))
    if path.exists() or named is None:
        return path
    model, inside = named[1], named[2].lstrip("/")
    folder = cache_folder() / "hub" / model.replace("/", "--") / revision / inside
    if (folder / CONFIG).exists() and any((folder / name).exists() for name in WEIGHTS):
        return folder
    base = f"{_endpoint()}/{model}/resolve/{urllib.parse.quote(revision, safe='')}/{inside}".rstrip("/")
    config = _checksum(f"{base}/{CONFIG}", where)
    if config is None:
        raise UserError(f"the hub's model '{where}' has no {CONFIG}: name the folder that has one")
    weights = ((name, _checksum(f"{base}/{name}", where)) for name in WEIGHTS)
    found = next(((name, checksum) for name, checksum in weights if checksum is not None), None)
    if found is None:
        raise UserError(f"the hub's model '{where}' has no weights: none of {', '.join(WEIGHTS)}")
    for name, checksum in ((CONFIG, config), found):
        fetch(f"{base}/{name}", folder / name, checksum)
    return folder


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def cache_folder() -> Path:
    """Where downloads of this machine are kept."""
    return Path(os.environ.get("DIOSCURI_CACHE", "~/.cache/dioscuri")).expanduser()


def _checksum(url: str, where: object) -> str | None:
    """What the hub says of a file; None where it has none, empty where it tells no checksum."""
    request = urllib.request.Request(url, method="HEAD", headers={"User-Agent": "dioscuri"})
    try:
        with urllib.request.build_opener(_Stay).open(request, timeout=_SECONDS) as response:
            return _digest(response.headers)
    except urllib.error.HTTPError as error:
        if error.code in (301, 302, 303, 307, 308):
            return _digest(error.headers)
        if error.code == http.client.NOT_FOUND:
            return None
        raise UserError(
            f"there is no folder '{where}' here, and {_endpoint()} does not give a model of that name: "
            f"{error.code} {error.reason}"
        ) from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise UserError(
            f"there is no folder '{where}' here, and the hub {_endpoint()} cannot be reached ({reason}): "
            "give a folder, or connect and try again"
        ) from error


def _digest(headers: Message) -> str:
    """Large files are named by their sha256, others by git."""
    tag = (headers.get("X-Linked-Etag") or headers.get("ETag") or "").removeprefix("W/").strip('"')
    kinds = {64: "sha256", 40: "git"}
    return f"{kinds[len(tag)]}:{tag}" if re.fullmatch("[0-9a-f]*", tag) and len(tag) in kinds else ""
