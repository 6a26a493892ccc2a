"""Opens models in folders, in files and on the hub, by others or by this project, without a run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from dioscuri.checkpoint import pretrained
from dioscuri.checkpoint.pretrained import CONFIG, network_options
from dioscuri.checkpoint.tensor_files import read_config, read_weights
from dioscuri.checkpoint.weight_files import Choice
from dioscuri.data.text_encoder import TextSource
from dioscuri.errors import UserError
from dioscuri.hparams import load
from dioscuri.hub import local_folder
from dioscuri.importers.pipelines import ENCODER
from dioscuri.importers.published import canonical_weights, recognise
from dioscuri.importers.published_run import BASES


@dataclass(frozen=True, kw_only=True)
class OpenedModel:
    """A model's options, its weights under canonical names (float32), and notes about what was read.

    `tokenizer` is the folder of the tokenizer that comes with the model, if any, `text` its text encoder;
    `origin` identifies the run's checkpoint from which the weights come; `calls` holds options of the
    model's methods.
    """

    hparams: Any
    weights: dict[str, np.ndarray]
    notes: tuple[str, ...] = ()
    tokenizer: Path | None = None
    origin: Mapping[str, Any] = field(default_factory=dict)
    text: TextSource | None = None
    calls: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def open_published(
    where: str | Path,
    overrides: Sequence[str] = (),
    *,
    weights: Choice | None = None,
    revision: str = "main",
) -> OpenedModel:
    """Open a folder with `config.json` and weights, whoever wrote it, or such a model on the hub.

    `where` is a folder or a hub id, `owner/model[/folder]`; words `section.option=value` change options.
    A picture tokenizer and a text encoder may lie in the subfolders `tokenizer` and `text_encoder`.
    `weights` chooses between averaged (default) and raw ones. Names, shapes and values are checked; a
    `UserError` says what is missing or does not fit.
    """
    folder = local_folder(where, revision, weights or "average")
    if not (folder / CONFIG).is_file():
        raise UserError(f"{folder} holds no {CONFIG}: give a folder with one, or a hub id")
    if pretrained.is_folder(folder):
        hparams, arrays = pretrained.read_folder(folder, overrides)
        arrays = canonical_weights(arrays, hparams, folder / pretrained.TENSORS, native=True)
        return OpenedModel(
            hparams=hparams,
            weights=arrays,
            tokenizer=pretrained.tokenizer_folder(folder),
            origin=pretrained.origin_of(folder),
            text=_text(folder),
            calls=pretrained.calls_of(folder),
        )
    read = cache(lambda: read_weights(folder, weights))
    described = recognise(read_config(folder / CONFIG), folder / CONFIG, overrides, lambda: read().arrays)
    published = [*described.overrides, *described.sampling]
    hparams = load(BASES[described.family], overrides, published=published)
    arrays = canonical_weights(read().arrays, hparams, read().source)
    return OpenedModel(
        hparams=network_options(hparams),
        weights=arrays,
        notes=(read().note, *described.notes),
        tokenizer=_beside(folder, pretrained.TOKENIZER),
        text=_text(folder),
        calls=described.calls,
    )


def _text(folder: Path) -> TextSource | None:
    """The text encoder in a model's folder."""
    encoder = _beside(folder, ENCODER)
    return None if encoder is None else TextSource(encoder=str(encoder))


def _beside(folder: Path, name: str) -> Path | None:
    """A network in a model's subfolder."""
    return folder / name if (folder / name / CONFIG).is_file() else None
