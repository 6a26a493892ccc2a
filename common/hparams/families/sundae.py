"""Options of SUNDAE (Savinov et al. 2022) and its training."""

from dataclasses import dataclass

from common.hparams.denoiser import Denoiser
from common.hparams.denoising import Resampling, Unrolling
from common.hparams.drawing import Drawing
from common.hparams.families.maskgit import MaskedVal, TokenData
from common.hparams.schema import option
from common.hparams.sections import Optimizer, Run, Train


@dataclass(frozen=True, kw_only=True)
class Loss(Unrolling):
    """`[loss]`: passes of a step and weight decay."""

    weight_decay: float = option(0.0, low=0, doc="decoupled weight decay on matrices")
    legacy_weight_decay: bool = option(
        False, doc="on norms, biases and embeddings, too, as the original's optimiser has it"
    )


@dataclass(frozen=True, kw_only=True)
class Synthesis(Resampling, Drawing):
    """`[synthesis]`: what `synthesize.py` does, and how tokens are drawn."""


@dataclass(frozen=True, kw_only=True)
class HParams:
    """All options of a run. Pictures without `data.tokenizer_path` are their own tokens: grey levels."""

    run: Run
    data: TokenData
    model: Denoiser
    loss: Loss
    optimizer: Optimizer
    train: Train
    val: MaskedVal
    synthesis: Synthesis


ARCHITECTURE = (
    "model",
    "data.target_res",
    "data.channels",
    "data.grid",
    "data.codebook_size",
)
"""Options that an existing run cannot change: whole sections or `section.option`."""
