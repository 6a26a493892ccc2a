"""Downloads models of the Hugging Face hub into the local cache, with the hub's client.

The client's environment variables, such as HF_ENDPOINT, HF_HOME and HF_TOKEN, apply. DIOSCURI_CACHE names
another folder for all downloads of this project.
"""

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from dioscuri.checkpoint.tensor_files import read_config
from dioscuri.checkpoint.weight_files import EXPECTED, Choice, choose, shards
from dioscuri.errors import UserError
from dioscuri.files import read_path

CONFIG, INDEX = "config.json", "model_index.json"
_FOLDER = re.compile(r"\w[\w-]*")
_ID = re.compile(r"([A-Za-z0-9][\w.-]*/[\w.-]+)((?:/\w[\w.-]*)*)")


def local_folder(where: str | Path, revision: str = "main", choice: Choice = "average") -> Path:
    """The folder or file `where`, or the cached copy of the hub's model of that name.

    A name is `owner/model`, followed by a folder of the model if it has one: `owner/model/vae`. A file is
    downloaded once, and again if its cached copy is damaged. Raises a `UserError` if there is neither such a
    folder nor such a model, or if the hub cannot be reached.
    """
    path = read_path(where, "load takes a folder or a hub id")
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
    """The cached folder of a model, with its configuration and weights, or of a pipeline of models."""
    from huggingface_hub.errors import RemoteEntryNotFoundError  # noqa: PLC0415 - as above

    remote = _Remote(name, revision)
    if remote.cached(_joined(inside, INDEX)) is None:
        try:
            return _fetched_network(remote, model, inside, choice)
        except RemoteEntryNotFoundError:
            pass
    try:
        index = remote.fetch(_joined(inside, INDEX))
    except RemoteEntryNotFoundError as error:
        raise UserError(f"{model} has no {CONFIG}: name the folder that has one") from error
    folders = [index.parent / name for name in _subfolders(index)]
    files = [PurePosixPath(inside, file) for file in _files_of(folders, choice)] or remote.files()
    parts = {PurePosixPath(inside, folder.name) for folder in folders}
    within = [file for file in files if file.parent in parts]
    networks = {file.parent for file in within if file.name == CONFIG}
    for file in within:  # the texts' tokenizer, the scheduler
        if file.parent not in networks:
            remote.fetch(str(file))
    for network in sorted(networks):
        _fetched_network(remote, f"{model}, {network.name}", str(network), choice)
    return index.parent


def _fetched_network(remote: "_Remote", model: str, inside: str, choice: Choice) -> Path:
    """The cached folder of a network, with its configuration and weights."""
    config = remote.fetch(_joined(inside, CONFIG))
    chosen = choose((path.name for path in config.parent.iterdir()), choice)
    if chosen is None:
        chosen = choose(
            (file.name for file in remote.files() if file.parent == PurePosixPath(inside)), choice
        )
    if chosen is None:
        raise UserError(f"{model} has no weights: no file is named {EXPECTED}")
    weights = remote.fetch(_joined(inside, chosen))
    for shard in shards(weights) if chosen.endswith(".json") else ():
        remote.fetch(_joined(inside, shard))
    return config.parent


class _Remote:
    """The files of a model on the hub."""

    def __init__(self, name: str, revision: str) -> None:
        from huggingface_hub import HfApi  # noqa: PLC0415 - as above

        self.name, self.revision = name, revision
        self.cache = cache_folder() / "hub" if "DIOSCURI_CACHE" in os.environ else None
        self.hub = HfApi(endpoint=_endpoint())

    def files(self) -> list[PurePosixPath]:
        """All files."""
        return [PurePosixPath(file) for file in self.hub.list_repo_files(self.name, revision=self.revision)]

    def cached(self, file: str) -> Path | None:
        """The cached copy of a file, if there is one."""
        from huggingface_hub import try_to_load_from_cache  # noqa: PLC0415 - as above

        path = try_to_load_from_cache(self.name, file, cache_dir=self.cache, revision=self.revision)
        return Path(path) if isinstance(path, str) else None

    def fetch(self, file: str) -> Path:
        """The cached copy of a file, downloaded if it is missing or damaged."""
        from huggingface_hub import get_hf_file_metadata, hf_hub_url  # noqa: PLC0415 - as above

        cached = self.cached(file)
        if cached is not None and _is_whole(cached):
            return cached
        if cached is None:  # an unreachable hub is asked once; the client's retries take 20 seconds
            get_hf_file_metadata(hf_hub_url(self.name, file, revision=self.revision, endpoint=_endpoint()))
        path = self.hub.hf_hub_download(
            self.name, file, revision=self.revision, cache_dir=self.cache, force_download=cached is not None
        )
        return Path(path)


def _subfolders(index: Path) -> list[str]:
    """Names of the subfolders that a pipeline's index lists."""
    parts = read_config(index).items()
    return [
        name for name, value in parts if isinstance(value, list) and all(value) and _FOLDER.fullmatch(name)
    ]


def _files_of(folders: Sequence[Path], choice: Choice) -> list[PurePosixPath]:
    """Files of a pipeline's cached folders, relative to the pipeline's; none if a folder or weights lack.

    Networks are fetched last, so that a folder without them is complete if all folders are there.
    """
    if not all(folder.is_dir() for folder in folders):
        return []
    for folder in folders:
        names = [path.name for path in folder.iterdir()]
        if CONFIG in names and choose(names, choice) is None:
            return []
    return [PurePosixPath(folder.name, path.name) for folder in folders for path in folder.iterdir()]


def _joined(folder: str, file: str) -> str:
    return f"{folder}/{file}".lstrip("/")


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
