"""Download one file with pooch, which verifies it before it appears under its name.

The transfer itself is written here because pooch's has no limits: a server may send forever, or very slowly.
"""

import shutil
import time
import urllib.parse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dioscuri.errors import UserError

MAX_BYTES = 1 << 36
_BLOCK = 1 << 20
_TIMEOUT = 60.0  # seconds without a byte
_SLOWEST = 1000.0  # bytes a second, on average after the first _TIMEOUT seconds
_RESERVE = 1 << 28  # bytes that stay free on the disk
_LENGTHS = {"md5": 32, "sha256": 64}


def parse_digest(text: str) -> tuple[str, str]:
    """Split `md5:<hex>` or `sha256:<hex>`; a `UserError` for anything else."""
    algorithm, _, digits = text.lower().partition(":")
    if len(digits) != _LENGTHS.get(algorithm) or set(digits) - set("0123456789abcdef"):
        raise UserError(f"'{text}' is not a checksum; expected 64 hexadecimal digits of sha256")
    return algorithm, digits


def fetch(
    url: str,
    target: Path,
    checksum: str,
    *,
    attempts: int = 5,
    pause: float = 2.0,
    max_bytes: int = MAX_BYTES,
) -> Path:
    """Download `url` to `target`. `checksum` is as `parse_digest` reads it, or empty if unknown.

    A `target` with the right checksum is left alone; any other is renamed to `.broken` and downloaded again.
    An interrupted transfer is retried, up to `attempts` times. Raises a `UserError` for a bad address, a
    server that refuses, a transfer that is too large, too slow or fails every time, and a wrong checksum;
    `target` then does not exist.
    """
    import pooch  # noqa: PLC0415 - slow, and needed for downloads alone
    from requests import RequestException  # noqa: PLC0415 - as above
    from urllib3.exceptions import HTTPError  # noqa: PLC0415 - as above

    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise UserError(f"'{url}' is not an http or https address")
    known = ":".join(parse_digest(checksum)) if checksum else None
    if target.exists() and (wrong := mismatch(target, checksum)):
        aside = target.with_name(target.name + ".broken")
        target.replace(aside)
        print(f"{target}: {wrong}; it is now {aside.name}, and is fetched again")
    cache = pooch.create(target.parent, "", registry={target.name: known}, urls={target.name: url})
    transfer = partial(_receive, max_bytes=max_bytes)
    for attempt in range(1, attempts + 1):
        try:
            cache.fetch(target.name, downloader=transfer)
            break
        except UserError:
            raise
        except (RequestException, HTTPError, EOFError, TimeoutError) as error:
            if attempt == attempts:
                raise UserError(f"{url}: {_line(error)}; run the command again") from error
            time.sleep(pause * attempt)
        except ValueError as error:  # raised by pooch for a wrong checksum
            raise UserError(f"{url}: {_line(error)}") from error
    if not checksum:
        print(f"{target.name}: not verified; its sha256 is {pooch.file_hash(str(target))}")
    return target


def check(path: Path, checksum: str) -> None:
    """Raise a `UserError` that names both digests if the file's is not the expected one."""
    if wrong := mismatch(path, checksum):
        raise UserError(f"{path}: {wrong}; remove it and download it again")


def mismatch(path: Path, checksum: str) -> str:
    """How a file's digest differs; empty if it does not, or if no digest is known."""
    import pooch  # noqa: PLC0415 - slow, and needed for downloads alone

    if not checksum:
        return ""
    algorithm, expected = parse_digest(checksum)
    digest = pooch.file_hash(str(path), alg=algorithm)
    return "" if digest == expected else f"its {algorithm} is {digest}, not {expected}"


def _receive(url: str, output: str, _pooch: Any, *, max_bytes: int) -> None:
    """Write a server's response to a file, within the limits."""
    import requests  # noqa: PLC0415 - slow, and needed for downloads alone

    headers = {"User-Agent": "dioscuri", "Accept-Encoding": "identity"}
    with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
        if 400 <= response.status_code < 500:
            raise UserError(f"{url}: the server answered {response.status_code} {response.reason}")
        response.raise_for_status()
        announced = response.headers.get("Content-Length", "")
        total = int(announced) if announced.isdecimal() else None
        check_size = partial(_check_size, url, Path(output).parent, max_bytes)
        check_size(total or 0)
        name = urllib.parse.unquote(url.rpartition("/")[2])
        bar = tqdm(total=total, unit="B", unit_scale=True, desc=name, disable=None)
        with Path(output).open("wb") as stream, bar:
            received = _copy(response.raw.read1, stream.write, bar.update, check_size)
    if total is not None and received != total:
        raise EOFError(f"the connection ended after {received} of {total} bytes")


def _copy(
    read: Callable[[int], bytes],
    write: Callable[[bytes], object],
    show: Callable[[int], object],
    check_size: Callable[[int], None],
) -> int:
    """Copy to the end and return the number of bytes; raises if there are too many, or if it is too slow."""
    received, start = 0, time.monotonic()
    while block := read(_BLOCK):
        write(block)
        received += len(block)
        show(len(block))
        check_size(received)
        seconds = time.monotonic() - start
        if seconds > _TIMEOUT and received < _SLOWEST * seconds:
            raise TimeoutError(f"the server sent {received} bytes in {seconds:.0f} seconds")
    return received


def _check_size(url: str, folder: Path, max_bytes: int, size: int) -> None:
    if size > max_bytes:
        raise UserError(f"{url}: the file is larger than {max_bytes:,} bytes, so it is not the expected file")
    if (free := shutil.disk_usage(folder).free) < _RESERVE:
        raise UserError(f"{url}: only {free:,} bytes are free in {folder}: make room for {size:,}")


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
