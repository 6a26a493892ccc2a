"""Downloads models of the Hugging Face hub into the local cache, with the hub's client.

The client's environment variables, such as HF_ENDPOINT, HF_HOME and HF_TOKEN, apply. DIOSCURI_CACHE names
another folder for all downloads of this project.
"""

import hashlib
import os
import re
from pathlib import Path, PurePosixPath

from dioscuri.checkpoint.weight_files import EXPECTED, Choice, choose, shards
from dioscuri.errors import UserError

CONFIG = "config.json"
_ID = re.compile(r"([A-Za-z0-9][\w.-]*/[\w.-]+)((?:/\w[\w.-]*)*)")


def local_folder(where: str | Path, revision: str = "main", choice: Choice = "average") -> Path:
    """The folder or file `where`, or the cached copy of the hub's model of that name.

    A name is `owner/model`, followed by a folder of the model if it has one: `owner/model/vae`. A file is
    downloaded once, and again if its cached copy is damaged. Raises a `UserError` if there is neither such a
    folder nor such a model, or if the hub cannot be reached.
    """
    path = Path(where)
    named = _ID.fullmatch(str(where))
    if path.exists() or named is None:
        return path
    from huggingface_hub.errors import HfHubHTTPError  # noqa: PLC0415 - slow, for models of the hub alone

    try:
        return _fetched(f"the hub's model '{where}'", named[1], named[2].lstrip("/"), revision, choice)
    except HfHubHTTPError as error:
        reason = f"does not give a model of that name: {_line(error)}"
    except Exception as error:  # the client passes on any exception of its libraries
        if isinstance(error, UserError):
            raise
        reason = f"cannot be reached ({_line(error)}): give a folder, or connect and try again"
    raise UserError(f"there is no folder '{where}' here, and the hub {_endpoint()} {reason}")


def cache_folder() -> Path:
    """The folder of downloads on this machine."""
    return Path(os.environ.get("DIOSCURI_CACHE", "~/.cache/dioscuri")).expanduser()


def _fetched(model: str, name: str, inside: str, revision: str, choice: Choice) -> Path:
    """The cached folder of a model, with its configuration and weights."""
    from huggingface_hub import (  # noqa: PLC0415 - as above
        HfApi,
        get_hf_file_metadata,
        hf_hub_url,
        try_to_load_from_cache,
    )
    from huggingface_hub.errors import RemoteEntryNotFoundError  # noqa: PLC0415 - as above

    cache = cache_folder() / "hub" if "DIOSCURI_CACHE" in os.environ else None
    hub = HfApi(endpoint=_endpoint())

    def path_of(file: str) -> str:
        return f"{inside}/{file}".lstrip("/")

    def fetch(file: str) -> Path:
        cached = try_to_load_from_cache(name, path_of(file), cache_dir=cache, revision=revision)
        if isinstance(cached, str) and _is_whole(Path(cached)):
            return Path(cached)
        if not isinstance(
            cached, str
        ):  # an unreachable hub is asked once; the client's retries take 20 seconds
            get_hf_file_metadata(hf_hub_url(name, path_of(file), revision=revision, endpoint=_endpoint()))
        again = isinstance(cached, str)
        path = hub.hf_hub_download(
            name, path_of(file), revision=revision, cache_dir=cache, force_download=again
        )
        return Path(path)

    try:
        config = fetch(CONFIG)
    except RemoteEntryNotFoundError as error:
        raise UserError(f"{model} has no {CONFIG}: name the folder that has one") from error
    chosen = choose((path.name for path in config.parent.iterdir()), choice)
    if chosen is None:
        files = map(PurePosixPath, hub.list_repo_files(name, revision=revision))
        chosen = choose((file.name for file in files if file.parent == PurePosixPath(inside)), choice)
    if chosen is None:
        raise UserError(f"{model} has no weights: no file is named {EXPECTED}")
    weights = fetch(chosen)
    for shard in shards(weights) if chosen.endswith(".json") else ():
        fetch(shard)
    return config.parent


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def _is_whole(cached: Path) -> bool:
    """Whether a file matches the hash in its cache name: sha256, or git's for small files."""
    expected = cached.resolve().name
    with cached.open("rb") as stream:
        if len(expected) == 64:
            return hashlib.file_digest(stream, "sha256").hexdigest() == expected
        named = hashlib.sha1(f"blob {cached.stat().st_size}\0".encode(), usedforsecurity=False)
        return len(expected) != 40 or hashlib.file_digest(stream, named.copy).hexdigest() == expected


def _line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
