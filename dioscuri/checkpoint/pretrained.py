"""Models as folders to share: `config.json` holds the options, `model.safetensors` the weights.

Tensors have canonical names and layouts, so each twin reads what the other wrote. A model that needs a
tokenizer may include it in the subfolder `tokenizer/`, a folder of the same kind, or name a shipped one.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from dioscuri.checkpoint.files import tensor_bytes
from dioscuri.checkpoint.tensor_files import read_config
from dioscuri.errors import UserError, quoted
from dioscuri.files import check_plain, replacing, write_json
from dioscuri.hparams.archive import to_json
from dioscuri.hparams.loading import assemble
from dioscuri.hparams.overrides import parse
from dioscuri.hparams.reader import Document
from dioscuri.places import shipped_models
from dioscuri.plans.lora import without_adapters

CONFIG, TENSORS, TOKENIZER, TEXT_ENCODER = "config.json", "model.safetensors", "tokenizer", "text_encoder"
LIBRARY, FORMAT = "dioscuri", 1

Arrays = Mapping[str, np.ndarray]
Model = tuple[Any, dict[str, np.ndarray]]
"""Options and weights."""


def write_folder(
    folder: Path,
    hparams: Any,
    weights: Arrays,
    *,
    origin: Mapping[str, Any] | None = None,
    calls: Mapping[str, Mapping[str, Any]] | None = None,
    tokenizer: str = "",
) -> None:
    """Write a model with these options; the tokenizer that it needs may go to its subfolder `TOKENIZER`, or
    be the shipped one named `tokenizer`.

    Paths among the options are left out, since they mean nothing elsewhere. `origin` identifies the run's
    checkpoint from which the weights come, as in the header of token shards; `calls` holds options of the
    model's methods.
    """
    content = {"library": LIBRARY, "format": FORMAT, "hparams": _without_paths(network_options(hparams))}
    with replacing(folder / TENSORS) as temporary:
        temporary.write_bytes(tensor_bytes(weights))
    more = {"origin": origin and dict(origin), "calls": calls and dict(calls), TOKENIZER: tokenizer}
    write_json(folder / CONFIG, content | {name: value for name, value in more.items() if value})


def is_folder(where: Path) -> bool:
    """Whether `where` is a folder that `write_folder` made."""
    return (where / CONFIG).is_file() and read_config(where / CONFIG).get("library") == LIBRARY


def read_hparams(folder: Path, overrides: Sequence[str] = ()) -> Any:
    """Options of a folder that `write_folder` made, overridden by words `section.option=value`.

    A `UserError` says what is wrong.
    """
    words = [*parse(option_words_of(folder), recorded=True), *parse(overrides)]
    return assemble(Document(str(folder / CONFIG), ()), words, Path.cwd())


def read_folder(folder: Path, overrides: Sequence[str] = ()) -> Model:
    """Options and weights of a folder that `write_folder` made, stored float16 as float32; a `UserError` says
    what is wrong.

    The caller must check whether the weights fit the options.
    """
    file = folder / TENSORS
    try:
        check_plain(file)
        weights = load_file(file)
    except OSError as error:
        raise UserError(f"weights {file} cannot be read: {error.strerror or error}") from error
    except (SafetensorError, KeyError, ValueError) as error:
        raise UserError(f"{file} is truncated or not a safetensors file: {error}") from error
    half = np.dtype(np.float16)
    wide = {
        name: array.astype(np.float32) if array.dtype == half else array for name, array in weights.items()
    }
    return network_options(read_hparams(folder, overrides)), wide


def tokenizer_folder(folder: Path) -> Path | None:
    """The folder of the tokenizer that comes with a model, or of the shipped one that it names, if any."""
    inside = folder / TOKENIZER
    if is_folder(inside):
        return inside
    name = read_config(folder / CONFIG).get(TOKENIZER) if is_folder(folder) else None
    if name is not None and not (isinstance(name, str) and re.fullmatch(r"[\w-]{1,100}", name)):
        raise UserError(
            f"{folder / CONFIG}: {TOKENIZER} must be the name of a model that ships, not {quoted(name)}"
        )
    return None if name is None else shipped_models() / name


def origin_of(folder: Path) -> dict[str, Any]:
    """The identity of the run's checkpoint from which a folder's weights come; empty if there is none."""
    return _table(folder, "origin")


def calls_of(folder: Path) -> dict[str, dict[str, Any]]:
    """Options of the model's methods that differ from its own, by method; empty if there are none."""
    return {name: options for name, options in _table(folder, "calls").items() if isinstance(options, dict)}


def _table(folder: Path, name: str) -> dict[str, Any]:
    table = read_config(folder / CONFIG).get(name)
    return dict(table) if isinstance(table, dict) else {}


def network_options(hparams: Any) -> Any:
    """Options without those of networks that only training needs, and of adapters, for the whole network."""
    hparams = without_adapters(hparams)
    if hasattr(hparams.data, "tokenizer_path"):
        return replace(hparams, data=replace(hparams.data, tokenizer_path=""))
    if hasattr(hparams, "discriminator"):
        return replace(hparams, discriminator=type(hparams.discriminator)(), loss=type(hparams.loss)())
    return hparams


def without_discriminator(weights: Arrays) -> dict[str, np.ndarray]:
    """Weights of the network that `network_options` leaves."""
    return {name: array for name, array in weights.items() if not name.startswith("discriminator.")}


def option_words_of(folder: Path) -> tuple[str, ...]:
    """The folder's options as words `section.option=value`."""
    where = folder / CONFIG
    config = read_config(where)
    if config.get("format") != FORMAT:
        raise UserError(f"{where} has format {config.get('format')!r}, but this version reads {FORMAT}")
    try:
        return option_words(config["hparams"])
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(f"{where} is not a complete configuration: {type(error).__name__} {error}") from error


def option_words(sections: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    """Words `section.option=value` of options; tuples become lists, names are not quoted."""
    return tuple(
        f"{section}.{name}={value if name == 'name' else repr(_listed(value))}"
        for section, options in sections.items()
        for name, value in options.items()
    )


def _without_paths(hparams: Any) -> dict[str, dict[str, Any]]:
    values = to_json(hparams)
    for section in fields(hparams):
        for declared in fields(getattr(hparams, section.name)):
            if declared.metadata["path"]:
                values[section.name][declared.name] = ""
    as_read_back: dict[str, dict[str, Any]] = json.loads(json.dumps(values))
    return as_read_back


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
