"""A trained, frozen tokenizer for priors, from the run that trained it or the folder it was saved to."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dioscuri.checkpoint.base_model import whole_weights
from dioscuri.checkpoint.makers import open_tokenizer_folder
from dioscuri.checkpoint.trained_run import TrainedFolder, check_finite
from dioscuri.errors import UserError
from dioscuri.families.vqgan import plan as tokenizers
from dioscuri.families.vqgan import tables as tokenizer_tables


@dataclass(frozen=True)
class TrainedTokenizer(TrainedFolder):
    """Its folder, options and plan; weights are read on demand."""

    plan: tokenizers.TokenizerPlan

    @property
    def weights(self) -> dict[str, np.ndarray]:
        """Averaged weights of encoder, quantiser and decoder under canonical names, float32.

        A `UserError` names the first tensor that is missing, of the wrong shape or not finite.
        """
        checkpoint = self.read()
        averaged = whole_weights(self.hparams, checkpoint.state["ema"])
        table = tokenizer_tables.parameter_table(self.plan)
        for name, parameter in table.items():
            if name not in averaged or averaged[name].shape != parameter.shape:
                has = averaged[name].shape if name in averaged else "no such tensor"
                raise UserError(
                    f"{checkpoint.path}: tensor '{name}' must be {parameter.shape}, there is {has}: the "
                    "run's options do not fit this checkpoint"
                )
        check_finite(checkpoint, averaged=True)
        return {name: averaged[name] for name in table}


def open_tokenizer(path: Path, *, first_stage: bool = False) -> TrainedTokenizer:
    """Read the options of a run or a saved folder; a `UserError` if it is not a tokenizer's, or not one that
    makes pictures and `first_stage` does not allow that."""
    hparams = open_tokenizer_folder(path).hparams
    plan = tokenizers.plan_of(hparams)
    if hparams.model.decoder_output == "proxy_codes" and not first_stage:
        raise UserError(
            f"{path} holds the first of two stages, which makes no pictures: train the second one, with "
            "model.decoder_output=proxy_pixels"
        )
    return TrainedTokenizer(path, hparams, plan)
