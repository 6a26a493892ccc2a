"""A trained tokenizer, as priors use it, frozen: the run that trained it, or the folder it was saved to."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from dioscuri.checkpoint import pretrained, store
from dioscuri.checkpoint.directory import RunDirectory
from dioscuri.checkpoint.trained_run import check_finite, open_run
from dioscuri.errors import UserError
from dioscuri.families.vqgan import plan as tokenizers
from dioscuri.families.vqgan import tables as tokenizer_tables
from dioscuri.hparams.archive import to_json

FAMILY = "vqgan"


@dataclass(frozen=True)
class TrainedTokenizer:
    """Its folder, options and plan; weights are read when they are asked for."""

    path: Path
    hparams: Any
    plan: tokenizers.TokenizerPlan

    @cached_property
    def checkpoint(self) -> store.Checkpoint:
        """Of a run that of the best validation, or the newest one where none was validated."""
        if pretrained.is_folder(self.path):
            return _saved(self.path)
        root = RunDirectory(self.path).checkpoints
        newest = store.load(root)
        best = newest.info["best_step"]
        return newest if best in (None, newest.step) else store.load(root, int(best))

    @property
    def sha256(self) -> str:
        """Hash of the weights, as token shards record it."""
        found: str = self.checkpoint.info["files"]["ema.safetensors"]["sha256"]
        return found

    @property
    def weights(self) -> dict[str, np.ndarray]:
        """Averaged weights of encoder, quantiser and decoder under canonical names, float32.

        A `UserError` names the first tensor that is missing, of another shape or not finite.
        """
        found = self.checkpoint.state["ema"]
        table = tokenizer_tables.parameter_table(self.plan)
        for name, parameter in table.items():
            if name not in found or found[name].shape != parameter.shape:
                has = found[name].shape if name in found else "no such tensor"
                raise UserError(
                    f"{self.checkpoint.path}: tensor '{name}' must be {parameter.shape}, there is {has}: the "
                    "run's options do not belong to this checkpoint"
                )
        check_finite(self.checkpoint, averaged=True)
        return {name: found[name] for name in table}


def open_tokenizer(path: Path) -> TrainedTokenizer:
    """Read the options of a run or a saved folder; a `UserError` where it is no tokenizer's."""
    where = f"[data] tokenizer_path '{path}'"
    if pretrained.is_folder(path):
        hparams = pretrained.read_hparams(path)
        if hparams.run.family != FAMILY:
            raise UserError(f"{where} is a model of family '{hparams.run.family}': give one of '{FAMILY}'")
    else:
        hparams = open_run(path, FAMILY, where)
    plan = tokenizers.make_plan(hparams.model, hparams.data.target_res, hparams.data.channels)
    return TrainedTokenizer(path, hparams, plan)


def _saved(folder: Path) -> store.Checkpoint:
    """A saved folder as the checkpoint of the run that its weights come from, where it tells one."""
    _, weights = pretrained.read_folder(folder)
    origin, file = pretrained.origin_of(folder), folder / pretrained.TENSORS
    sha256 = origin.get("sha256") or hashlib.sha256(file.read_bytes()).hexdigest()
    info = {"files": {"ema.safetensors": {"sha256": sha256}}, "best_step": None}
    return store.Checkpoint(step=int(origin.get("step", 0)), state={"ema": weights}, info=info, path=file)


def named(tokenizer: TrainedTokenizer) -> dict[str, Any]:
    """What names a tokenizer in the header of tokens that another program made with its averaged weights."""
    return {
        "sha256": tokenizer.sha256,
        "run": tokenizer.hparams.run.name,
        "weights": "ema",
        "step": tokenizer.checkpoint.step,
        "options": to_json(tokenizer.hparams)["model"],
    }


def made_by(hparams: Any, examples: Any = None) -> Mapping[str, Any]:
    """What names the tokenizer of examples that are tokens, or else that of `data.tokenizer_path`; empty
    where neither does."""
    if found := getattr(examples, "header", {}).get("tokenizer"):
        return dict(found)
    path = getattr(hparams.data, "tokenizer_path", "")
    return named(open_tokenizer(Path(path))) if path else {}


def check_learnt(checkpoint: store.Checkpoint, given: Mapping[str, Any]) -> None:
    """Raise a `UserError` where a model has learnt the tokens of another tokenizer than the given one; either
    may be unknown."""
    learnt = checkpoint.info.get("tokenizer") or {}
    hashes = [maker["sha256"] for maker in (learnt, given) if maker.get("sha256")]
    if len(set(hashes)) > 1:
        raise UserError(
            f"{checkpoint.path} has learnt tokens of {_weights(learnt)} and is given those of "
            f"{_weights(given)}: give data.tokenizer_path that run, or the paths of its tokens"
        )


def check_made_by(header: Mapping[str, Any], tokenizer: TrainedTokenizer, tokens: str) -> None:
    """Raise a `UserError` where the header of token shards names the weights of another tokenizer."""
    maker = header.get("tokenizer") or {}
    if maker.get("sha256") != tokenizer.sha256:
        raise UserError(
            f"tokens {tokens} were made by {_weights(maker)}, not by the averaged ones of "
            f"{tokenizer.checkpoint.path}: give data.tokenizer_path that run, or encode the pictures again"
        )


def _weights(maker: Mapping[str, Any]) -> str:
    """What a header or a checkpoint says of a tokenizer."""
    kind, run, step = (maker.get(name, "unknown") for name in ("weights", "run", "step"))
    return f"{kind} weights of the run '{run}' at step {step}"
