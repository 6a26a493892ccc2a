"""Sources of trained models: runs of either twin, folders, the hub, and shipped names."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from dioscuri.checkpoint import pretrained, store
from dioscuri.checkpoint.base_model import base_weights
from dioscuri.checkpoint.compare import match
from dioscuri.checkpoint.directory import RunDirectory
from dioscuri.checkpoint.trained_run import check_finite
from dioscuri.data.text_encoder import TextSource
from dioscuri.errors import UserError, did_you_mean, quoted
from dioscuri.face.model import face_of
from dioscuri.files import read_path
from dioscuri.hparams.loading import assemble
from dioscuri.hparams.reader import read
from dioscuri.hub import INDEX, local_folder
from dioscuri.importers.open_model import open_published
from dioscuri.importers.pipelines import is_pipeline, read_pipeline
from dioscuri.places import shipped_models
from dioscuri.plans.lora import adapters_of, trained_shapes

GROUPS = {"average": "ema", "raw": "model"}
"""Groups of a checkpoint's tensors."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/\w[\w.-]*)+")


@dataclass(frozen=True)
class Source:
    """Options of a network and its weights under canonical names.

    `tokenizer` is the folder of its tokenizer, which opens with the options `tokenizer_words`; `origin` names
    the run's checkpoint; `text` is the text encoder that comes with it; `calls` are options of its methods.
    """

    hparams: Any
    weights: dict[str, np.ndarray]
    tokenizer: Path | None = None
    origin: dict[str, Any] = field(default_factory=dict)
    tokenizer_words: tuple[str, ...] = ()
    text: TextSource | None = None
    calls: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def open_source(
    where: Path | str,
    *,
    weights: Any = "average",
    step: Any = "best",
    revision: str | None = None,
    words: Sequence[str] = (),
) -> Source:
    """Options and weights of a run, a saved or published folder, a model of the hub, or a shipped name.

    `words` are options that a published configuration omits.
    """
    _check_choice(weights, step)
    here = _existing(where)
    if here is not None and revision is not None:
        raise UserError(f"revision is one of a model on the hub, but {here} is a folder here: leave it out")
    path = here or local_folder(where, revision or "main", weights)
    if any(path.glob("hparams-*.cfg")):
        return _of_run(path, weights, step)
    if step != "best":
        raise UserError(f"step chooses a checkpoint of a run, but {path} is none: leave it out")
    if weights == "raw" and pretrained.is_folder(path):
        raise UserError(f"{path} holds no raw weights beside these: leave weights out, or load the run")
    if is_pipeline(path):
        return _of_pipeline(path, weights)
    if (path / pretrained.CONFIG).is_file():
        return _published(path, weights, words)
    raise UserError(
        f"{path} holds no model: no run's hparams-<name>.cfg, no {pretrained.CONFIG} and no {INDEX}"
    )


def shipped() -> dict[str, Path]:
    """Folders of the trained models that come with Dioscuri, by name."""
    folders = (file.parent for file in sorted(shipped_models().glob(f"*/{pretrained.CONFIG}")))
    return {folder.name: folder for folder in folders}


def shipped_or(path: Path) -> Path:
    """The path or, if nothing is there, the folder of the shipped model of that name."""
    return path if path.exists() else shipped().get(str(path), path)


def model_folder(where: Path | str) -> Path:
    """The folder of a model: one here, that of a shipped model, or the cached copy of one on the hub."""
    return _existing(where) or local_folder(where)


def _existing(where: Any) -> Path | None:
    """The folder on this machine, or None for a model of the hub."""
    path, names = read_path(where, "load takes a folder, a hub id or a shipped name"), shipped()
    if path.is_dir():
        return path
    if path.is_file():
        raise UserError(f"{path} is a file: give the folder that holds it and its {pretrained.CONFIG}")
    if str(where) in names:
        return names[str(where)]
    near = did_you_mean(str(where), names)
    if not near and not path.name.startswith("logs-") and _HUB_ID.fullmatch(str(where)):
        return None
    raise UserError(
        f"there is no folder {where} and no shipped model of that name{near}; shipped are {', '.join(names)}"
    )


def _of_run(path: Path, weights: str, step: Any) -> Source:
    copies = sorted(path.glob("hparams-*.cfg"))
    if len(copies) > 1:
        raise UserError(f"{path} holds {len(copies)} files hparams-<name>.cfg: give the folder of one run")
    root = path.absolute().parent
    hparams = assemble(read(copies[0]), (), root, root)
    group = GROUPS[weights]
    checkpoint = _checkpoint(path, step, group)
    check_finite(checkpoint, averaged=weights == "average")
    origin = {
        "sha256": checkpoint.info["files"][f"{group}.safetensors"]["sha256"],
        "run": hparams.run.name,
        "weights": group,
        "step": checkpoint.step,
    }
    tokenizer = getattr(hparams.data, "tokenizer_path", "")
    beside = Path(tokenizer) if tokenizer else None
    return _source(hparams, checkpoint.state[group], checkpoint.path, beside, origin)


def _checkpoint(path: Path, step: Any, group: str) -> store.Checkpoint:
    """A checkpoint with one group of tensors; 'best' is the best by validation, or the last if none was
    validated."""
    root = RunDirectory(path).checkpoints
    if not store.steps(root):
        raise UserError(f"{path} holds no checkpoint: train the run first")
    if step == "best":
        step = store.load(root, groups=()).info["best_step"]
    return store.load(root, None if step in (None, "last") else int(step), groups=(group,))


def _published(where: Path, weights: Any, words: Sequence[str] = ()) -> Source:
    opened = open_published(where, words, weights=weights)
    source = _source(opened.hparams, opened.weights, where, opened.tokenizer, dict(opened.origin))
    return replace(source, text=opened.text, calls=opened.calls)


def _of_pipeline(folder: Path, weights: Any) -> Source:
    pipeline = read_pipeline(folder)
    return replace(
        _published(pipeline.transformer, weights, pipeline.words),
        tokenizer=pipeline.tokenizer,
        tokenizer_words=pipeline.tokenizer_words,
        text=pipeline.text,
        calls=pipeline.calls,
    )


def _source(
    hparams: Any, arrays: Any, where: object, tokenizer: Path | None, origin: dict[str, Any]
) -> Source:
    """The options and weights that the network needs, checked."""
    face = face_of(hparams.run.family)
    network = face.network_options(hparams)
    if hasattr(network.data, "tokenizer_path"):
        network = replace(network, data=replace(network.data, tokenizer_path=""))
    weights = pretrained.without_discriminator(arrays)
    shapes = face.parameter_shapes(network)
    match(trained_shapes(network, shapes), weights, "stored", where)
    if adapters_of(network):
        weights |= base_weights(network, shapes)
    return Source(network, weights, tokenizer, origin)


def _check_choice(weights: Any, step: Any) -> None:
    if not isinstance(weights, str) or weights not in GROUPS:
        raise UserError(f"weights must be {' or '.join(map(repr, GROUPS))}, not {quoted(weights)}")
    whole = isinstance(step, int) and not isinstance(step, bool) and step >= 0
    if not whole and step not in ("best", "last"):
        raise UserError(f"step must be 'best', 'last' or the number of a checkpoint, not {quoted(step)}")
