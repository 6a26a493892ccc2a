"""Models as folders to be passed on: `config.json`, the options, and `model.safetensors`, the weights.

Tensors have canonical names and layouts, so that both twins read what either wrote. Folders that open-muse
published are read as well, where their weights are safetensors.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dioscuri.checkpoint import store
from dioscuri.checkpoint.directory import RunDirectory
from dioscuri.checkpoint.files import tensor_bytes
from dioscuri.checkpoint.tensor_files import read_config, read_weights, weights_file
from dioscuri.errors import UserError
from dioscuri.families.vqgan import options as vqgan
from dioscuri.files import replacing, write_json
from dioscuri.hparams import load, to_json
from dioscuri.hparams.archive import copy_path
from dioscuri.hparams.loading import assemble
from dioscuri.hparams.overrides import parse
from dioscuri.hparams.reader import Document
from dioscuri.importers.hub import CONFIG, local_folder
from dioscuri.importers.published import FORMAT, LIBRARY, canonical_weights, recognise
from dioscuri.importers.published_run import BASES

TENSORS = "model.safetensors"

Arrays = Mapping[str, np.ndarray]


def write_folder(folder: Path, hparams: Any, weights: Arrays) -> None:
    """Write a model of these options; paths among them, which mean nothing elsewhere, are left out."""
    content = {"library": LIBRARY, "format": FORMAT, "hparams": _without_paths(network_options(hparams))}
    with replacing(folder / TENSORS) as beside:
        beside.write_bytes(tensor_bytes(weights))
    write_json(folder / CONFIG, content)


def read_folder(
    where: str | Path, overrides: Sequence[str] = (), *, revision: str = "main"
) -> tuple[Any, dict[str, np.ndarray]]:
    """Options and weights of a folder or of a model of the hub.

    Of weights published by others names and shapes have been checked. A `UserError` says what is missing.
    """
    folder = local_folder(where, revision)
    if not (folder / CONFIG).is_file():
        raise UserError(f"{folder} holds no {CONFIG}: give a folder with one, or a model of the hub")
    described = recognise(read_config(folder / CONFIG), folder / CONFIG)
    words = [*described.overrides, *overrides]
    if described.own:
        hparams = assemble(Document(str(folder / CONFIG), ()), parse(words), Path.cwd())
    else:
        hparams = load(BASES[described.family], words)
    file = weights_file(folder)
    weights = canonical_weights(read_weights(file, _no_torch), hparams, file, own=described.own)
    return network_options(hparams), weights


def network_options(hparams: Any) -> Any:
    """Options without what only training needs beside the network itself."""
    if hparams.run.family in ("maskgit", "sundae"):
        return replace(hparams, data=replace(hparams.data, tokenizer_path=""))
    if hparams.run.family == "vqgan":
        return replace(hparams, discriminator=vqgan.Discriminator(), loss=vqgan.Loss())
    return hparams


def export_run(run: Path, name: str, target: Path, step: int | Literal["best"] | None = None) -> str:
    """Write the averaged weights of a run's checkpoint to a folder; returns what was done."""
    hparams = load(copy_path(run.parent, name), twin=run.parent)
    checkpoint = store.load(RunDirectory(run).checkpoints, step)
    weights = checkpoint.state["ema"]
    if hparams.run.family == "vqgan":
        weights = {k: array for k, array in weights.items() if not k.startswith("discriminator.")}
    write_folder(target, hparams, weights)
    return f"{target}: averaged weights of step {checkpoint.step} of {run}"


def _without_paths(hparams: Any) -> dict[str, dict[str, Any]]:
    found = to_json(hparams)
    for section in fields(hparams):
        for declared in fields(getattr(hparams, section.name)):
            if declared.metadata["path"]:
                found[section.name][declared.name] = ""
    return json.loads(json.dumps(found))  # type: ignore[no-any-return]


def _no_torch(path: Path) -> Any:
    raise UserError(f"{path} is a PyTorch file: make a run of it with convert.py, which reads these")
