"""Opens the folders of trained runs."""

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from dioscuri.checkpoint import pretrained, store
from dioscuri.checkpoint.directory import RunDirectory
from dioscuri.errors import UserError
from dioscuri.hparams import load


@dataclass(frozen=True)
class TrainedFolder:
    """The folder of a run or of a saved model, and its options."""

    path: Path
    hparams: Any

    @cached_property
    def checkpoint(self) -> store.Checkpoint:
        """A run's best checkpoint, or the newest if none was validated, without its tensors."""
        return replace(self.read(), state={})

    def read(self) -> store.Checkpoint:
        """The checkpoint with its averaged weights."""
        if pretrained.is_folder(self.path):
            return _saved(self.path)
        root, groups = RunDirectory(self.path).checkpoints, ("ema",)
        newest = store.load(root, groups=groups)
        best = newest.info["best_step"]
        return newest if best in (None, newest.step) else store.load(root, int(best), groups=groups)

    @property
    def sha256(self) -> str:
        """SHA-256 of the averaged weights, as token shards record it."""
        digest: str = self.checkpoint.info["files"]["ema.safetensors"]["sha256"]
        return digest


def _saved(folder: Path) -> store.Checkpoint:
    """A saved folder as a checkpoint of the run from which its weights come, if that is recorded."""
    _, weights = pretrained.read_folder(folder)
    origin, file = pretrained.origin_of(folder), folder / pretrained.TENSORS
    sha256 = origin.get("sha256") or hashlib.sha256(file.read_bytes()).hexdigest()
    info = {"files": {"ema.safetensors": {"sha256": sha256}}, "best_step": None}
    return store.Checkpoint(step=int(origin.get("step", 0)), state={"ema": weights}, info=info, path=file)


def check_finite(checkpoint: store.Checkpoint, *, averaged: bool) -> None:
    """Raise a `UserError` that names the first tensor of the weights with NaN or infinity."""
    kind, weights = ("averaged", "ema") if averaged else ("raw", "model")
    for name, tensor in checkpoint.state[weights].items():
        if not np.isfinite(tensor).all():
            raise UserError(
                f"{checkpoint.path}: tensor '{name}' of the {kind} weights is not finite and cannot be used: "
                "train again with a lower optimizer.learning_rate"
            )


def open_trained(path: Path, family: str, where: str) -> TrainedFolder:
    """Options of a run or a saved folder. A `UserError`, beginning with `where`, if it is no model of the
    family."""
    if not pretrained.is_folder(path):
        return TrainedFolder(path, open_run(path, family, where))
    hparams = pretrained.read_hparams(path)
    if hparams.run.family != family:
        raise UserError(f"{where} is a model of family '{hparams.run.family}': give one of '{family}'")
    return TrainedFolder(path, hparams)


def open_run(path: Path, family: str, where: str) -> Any:
    """Options of the run in a folder `logs-<name>`. A `UserError`, beginning with `where`, if it is not a run
    of the family or has no checkpoint."""
    if not path.is_dir():
        raise UserError(
            f"{where} does not exist: train that run first, or give another of family '{family}': a run's "
            "folder logs-<name>, a saved folder, or the name of a model that ships"
        )
    copies = sorted(path.glob("hparams-*.cfg"))
    if len(copies) != 1:
        raise UserError(f"{where} holds {len(copies)} files hparams-<name>.cfg: give the folder of one run")
    hparams = load(copies[0], twin=path.parent)
    if hparams.run.family != family:
        raise UserError(f"{where} is a run of family '{hparams.run.family}': give one of family '{family}'")
    if not store.steps(RunDirectory(path).checkpoints):
        raise UserError(f"{where} holds no checkpoint: train the run '{hparams.run.name}' first")
    return hparams
