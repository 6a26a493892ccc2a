"""The trained model whose low-rank adapters a run trains."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dioscuri.checkpoint import store
from dioscuri.checkpoint.compare import match
from dioscuri.checkpoint.pretrained import without_discriminator
from dioscuri.checkpoint.trained_run import TrainedFolder, open_trained
from dioscuri.errors import UserError
from dioscuri.plans.lora import adapters_of, merged


def open_base(hparams: Any) -> TrainedFolder:
    """The folder at `lora.base`; a `UserError` if it is not a whole model of the run's family."""
    path = hparams.lora.base
    if not path:
        raise UserError("[lora] base is empty: give the run folder or the saved folder of the model to tune")
    where = f"[lora] base '{path}'"
    folder = open_trained(Path(path), hparams.run.family, where)
    if adapters_of(folder.hparams):
        raise UserError(f"{where} holds adapters alone: give the model that they were trained for")
    return folder


def base_weights(hparams: Any, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Averaged weights of the base; a `UserError` names the first tensor that does not fit the options."""
    weights = without_discriminator(open_base(hparams).read().state["ema"])
    match(shapes, weights, "base", f"[lora] base '{hparams.lora.base}'")
    return weights


def whole_weights(hparams: Any, weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Weights of the network; for a run of adapters, the base's with the adapters folded in."""
    if (options := adapters_of(hparams)) is None:
        return dict(weights)
    base = open_base(hparams).read().state["ema"]
    return merged({**without_discriminator(base), **weights}, options.scale)


def base_of(hparams: Any) -> dict[str, Any]:
    """The identity of the base's weights; empty for a run without adapters."""
    if not adapters_of(hparams):
        return {}
    base = open_base(hparams)
    return {"sha256": base.sha256, "run": base.hparams.run.name, "step": base.checkpoint.step}


def check_base(checkpoint: store.Checkpoint, hparams: Any) -> None:
    """Raise a `UserError` if adapters were trained for other weights than those at `lora.base`."""
    trained, given = checkpoint.info.get("base") or {}, base_of(hparams)
    if trained.get("sha256") != given.get("sha256"):
        raise UserError(
            f"{checkpoint.path} holds adapters of the run '{trained.get('run')}' at step "
            f"{trained.get('step')}, but [lora] base '{hparams.lora.base}' has other weights: give that model"
        )
