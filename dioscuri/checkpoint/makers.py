"""The tokenizer that made a model's tokens: its identity in headers and checkpoints."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dioscuri.checkpoint import store
from dioscuri.checkpoint.trained_run import TrainedFolder, open_trained
from dioscuri.errors import UserError
from dioscuri.hparams.archive import to_json

FAMILY = "vqgan"
"""The family of tokenizers."""


def open_tokenizer_folder(path: Path) -> TrainedFolder:
    """Read the options of a run or a saved folder; a `UserError` if it is not a tokenizer's."""
    return open_trained(path, FAMILY, f"[data] tokenizer_path '{path}'")


def named(tokenizer: TrainedFolder) -> dict[str, Any]:
    """The identity of a tokenizer's averaged weights, as in the header of tokens made with them."""
    return {
        "sha256": tokenizer.sha256,
        "run": tokenizer.hparams.run.name,
        "weights": "ema",
        "step": tokenizer.checkpoint.step,
        "options": to_json(tokenizer.hparams)["model"],
    }


def made_by(hparams: Any, examples: Any = None) -> Mapping[str, Any]:
    """The identity of the tokenizer of examples that are tokens, else of the one at `data.tokenizer_path`;
    empty without either."""
    if tokenizer := getattr(examples, "header", {}).get("tokenizer"):
        return dict(tokenizer)
    path = getattr(hparams.data, "tokenizer_path", "")
    return named(open_tokenizer_folder(Path(path))) if path else {}


def check_learnt(checkpoint: store.Checkpoint, given: Mapping[str, Any]) -> None:
    """Raise a `UserError` if a model was trained on tokens of another tokenizer than the given
    one; either may be unknown."""
    trained_on = checkpoint.info.get("tokenizer") or {}
    hashes = [maker["sha256"] for maker in (trained_on, given) if maker.get("sha256")]
    if len(set(hashes)) > 1:
        raise UserError(
            f"{checkpoint.path} was trained on tokens of {_weights(trained_on)}, but is given those of "
            f"{_weights(given)}: set data.tokenizer_path to that run, or the data paths to its tokens"
        )


def check_made_by(header: Mapping[str, Any], tokenizer: TrainedFolder, tokens: str) -> None:
    """Raise a `UserError` if the header of token shards names the weights of another tokenizer."""
    maker = header.get("tokenizer") or {}
    if maker.get("sha256") != tokenizer.sha256:
        raise UserError(
            f"tokens {tokens} were made by {_weights(maker)}, not by the averaged weights of "
            f"{tokenizer.checkpoint.path}: set data.tokenizer_path to that run, or encode the pictures again"
        )


def _weights(maker: Mapping[str, Any]) -> str:
    """A tokenizer's weights in words."""
    kind, run, step = (maker.get(name, "unknown") for name in ("weights", "run", "step"))
    return f"{kind} weights of the run '{run}' at step {step}"
