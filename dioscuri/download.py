"""Download one file: resumed after an interruption, checked, written beside and renamed."""

import hashlib
import http.client
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from tqdm import tqdm

from dioscuri.errors import UserError

_BLOCK = 1 << 20
_TIMEOUT = 60.0  # seconds without a byte
_LENGTHS = {"md5": 32, "sha256": 64, "git": 40}


class _Interrupted(Exception):
    """The transfer stopped early; what has arrived is kept."""


def file_digest(path: Path, algorithm: str) -> str:
    """Hexadecimal digest of a file's bytes; `git` is the name that git gives such a file."""
    with path.open("rb") as stream:
        if algorithm == "git":
            named = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
            return hashlib.file_digest(stream, named.copy).hexdigest()
        return hashlib.file_digest(stream, algorithm).hexdigest()


def parse_digest(text: str) -> tuple[str, str]:
    """Split `md5:<hex>`, `sha256:<hex>` or `git:<hex>`; a `UserError` for anything else."""
    algorithm, _, digits = text.lower().partition(":")
    if len(digits) != _LENGTHS.get(algorithm) or set(digits) - set("0123456789abcdef"):
        raise UserError(f"'{text}' is not a checksum; expected 64 hexadecimal digits of sha256")
    return algorithm, digits


def fetch(url: str, target: Path, checksum: str, *, attempts: int = 5, pause: float = 2.0) -> Path:
    """Make `target` the file at `url`, whose checksum `parse_digest` reads, or is unknown if empty.

    A sound `target` is left alone. A partial download lies beside it as `.part` and is continued, by this
    call up to `attempts` times, and by a later one. Raises `UserError` for a bad address, a refusing server,
    a transfer that keeps breaking off and a wrong checksum; a wrong download is deleted, a wrong file put
    there by hand is not.
    """
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise UserError(f"'{url}' is not an http or https address")
    if target.exists():
        check(target, checksum)
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    for attempt in range(1, attempts + 1):
        try:
            _continue(url, part, resumable_without_tag=bool(checksum))
            break
        except (_Interrupted, urllib.error.URLError, http.client.HTTPException, OSError) as error:
            if isinstance(error, urllib.error.HTTPError) and error.code < 500:
                raise UserError(f"{url}: the server answers {error.code} {error.reason}") from error
            if isinstance(error, OSError) and error.filename:  # a local file, not the network
                raise
            if attempt == attempts:
                raise UserError(f"{url}: {error}; run the command again to continue the download") from error
            time.sleep(pause * attempt)
    if wrong := mismatch(part, checksum):
        _forget(part)
        raise UserError(f"{url}: {wrong}; the download was deleted")
    part.replace(target)
    _tag_file(part).unlink(missing_ok=True)
    return target


def check(path: Path, checksum: str) -> None:
    """Raise a `UserError` that names both digests if the file's is not the expected one."""
    if wrong := mismatch(path, checksum):
        raise UserError(f"{path}: {wrong}; remove it and fetch it again")


def mismatch(path: Path, checksum: str) -> str:
    """Say how a file's digest differs; empty if it does not. Without a checksum, print the file's sha256."""
    if not checksum:
        name = path.name.removesuffix(".part")
        print(f"{name}: not verified; its sha256 is {file_digest(path, 'sha256')}")
        return ""
    algorithm, expected = parse_digest(checksum)
    found = file_digest(path, algorithm)
    return "" if found == expected else f"its {algorithm} is {found}, not {expected}"


def _continue(url: str, part: Path, *, resumable_without_tag: bool) -> None:
    """Append what is missing to the partial file; start over where the server's file may be another."""
    tag_file = _tag_file(part)
    tag = tag_file.read_text() if tag_file.exists() else ""
    if not (tag or resumable_without_tag):
        _forget(part)
    offset = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "dioscuri", "Accept-Encoding": "identity"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
        if tag:
            headers["If-Range"] = tag
    request = urllib.request.Request(url, headers=headers)
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        if error.headers.get("Content-Range") == f"bytes */{offset}":
            return  # everything had arrived
        _forget(part)
        raise _Interrupted("the partial download does not belong to the server's file") from error
    with response:
        continues = response.status == http.HTTPStatus.PARTIAL_CONTENT
        if continues and not response.headers.get("Content-Range", "").startswith(f"bytes {offset}-"):
            _forget(part)
            raise _Interrupted("the server sent another part than asked for")
        tag_file.write_text(_strong_tag(response.headers))
        _receive(response, part, offset if continues else 0)


def _receive(response: http.client.HTTPResponse, part: Path, offset: int) -> None:
    announced = response.headers.get("Content-Length")
    total = None if announced is None else offset + int(announced)
    name = part.name.removesuffix(".part")
    bar = tqdm(total=total, initial=offset, unit="B", unit_scale=True, desc=name, disable=None)
    with part.open("ab" if offset else "wb") as stream, bar:
        while block := response.read(_BLOCK):
            stream.write(block)
            bar.update(len(block))
    # A connection that is cut shows as the end of the data.
    if total is not None and part.stat().st_size != total:
        raise _Interrupted(f"the connection ended after {part.stat().st_size} of {total} bytes")


def _strong_tag(headers: http.client.HTTPMessage) -> str:
    """What `If-Range` may carry: a strong ETag or a date, else nothing."""
    tag = headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else headers.get("Last-Modified", "")


def _tag_file(part: Path) -> Path:
    return part.with_name(part.name + ".tag")


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _tag_file(part).unlink(missing_ok=True)
