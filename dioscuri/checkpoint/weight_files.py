"""Finds a model's weights in a folder: plain files, variants, and shards with an index."""

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Literal

from dioscuri.errors import UserError
from dioscuri.files import plain_bytes

Choice = Literal["average", "raw"]
"""Which weights to take if there are both."""

_STEMS = ("model", "diffusion_pytorch_model", "pytorch_model")
_NAME = re.compile(
    rf"(?P<stem>{'|'.join(_STEMS)})(?:\.(?P<variant>(?:(?!-\d+-of-)[\w-])+))??\.(?P<kind>safetensors|bin)"
    r"(?P<index>\.index(?:\.(?P<of_index>[\w-]+))?\.json)?"
)
"""File names of open-muse, diffusers and transformers: a stem, a variant such as fp16, and a kind."""
EXPECTED = "model, pytorch_model or diffusion_pytorch_model, as .safetensors or .bin, whole or with an index"
_MAX_INDEX = 1 << 24  # bytes


def choose(names: Iterable[str], choice: Choice = "average") -> str | None:
    """The best of a folder's file names; None if none is that of weights.

    safetensors are preferred to pickles, plain files to variants, single files to
    shards. The variant `non_ema` is raw.
    """
    known = [(match, name) for name in sorted(names) if (match := _NAME.fullmatch(name))]

    def order(candidate: tuple[re.Match[str], str]) -> tuple[bool, bool, bool, bool, int]:
        match, _ = candidate
        variant = match["variant"] or match["of_index"]
        wrong = (variant == "non_ema") != (choice == "raw") and variant == "non_ema"
        unwanted = wrong or (choice == "raw" and variant != "non_ema")
        return (
            unwanted,
            match["kind"] == "bin",
            variant not in (None, "non_ema"),
            match["index"] is not None,
            _STEMS.index(match["stem"]),
        )

    return min(known, key=order)[1] if known else None


def shards(index: Path) -> list[str]:
    """Names of the files that an index lists; a `UserError` if it is not an index."""
    try:
        if index.stat().st_size > _MAX_INDEX:
            raise UserError(f"{index} is not an index of weights: it is absurdly large")
        files = sorted(set(json.loads(plain_bytes(index))["weight_map"].values()))
        invalid = [name for name in files if PurePosixPath(name).name != name or name in ("", ".", "..")]
    except OSError as error:
        raise UserError(f"{index} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{index} is not an index of weights: {type(error).__name__} {error}") from error
    if invalid or not files:
        raise UserError(
            f"{index} is not an index of weights: {invalid[0] if invalid else 'nothing'} is no file"
        )
    return files


def weights_files(source: Path, choice: Choice = "average") -> list[Path]:
    """The file itself, or the files of a folder's weights, all shards; a `UserError` if any is missing."""
    if not source.is_dir():
        return [source]
    name = choose((path.name for path in source.iterdir() if path.is_file()), choice)
    if name is None:
        raise UserError(f"{source} holds no weights: no file is named {EXPECTED}")
    if not name.endswith(".json"):
        return [source / name]
    files = [source / shard for shard in shards(source / name)]
    for file in files:
        if not file.is_file():
            raise UserError(f"{source / name} lists {file.name}, which is missing")
    return files


def weights_digest(source: Path, choice: Choice = "average") -> str:
    """SHA-256 over the SHA-256 of each file of the weights."""
    whole = hashlib.sha256()
    for file in weights_files(source, choice):
        with file.open("rb") as opened:
            whole.update(hashlib.file_digest(opened, "sha256").digest())
    return whole.hexdigest()
