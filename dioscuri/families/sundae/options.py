"""Options of SUNDAE (Savinov et al. 2022) and its training."""

from dataclasses import dataclass

from dioscuri.families.maskgit.options import MaskedVal, TokenData
from dioscuri.families.sundae.denoising_options import Resampling, Unrolling
from dioscuri.families.sundae.model_options import Denoiser
from dioscuri.families.token_models.drawing_options import MODES, Drawing
from dioscuri.hparams.adapters import LoRA
from dioscuri.hparams.schema import option
from dioscuri.hparams.sections import Optimizer, Run, Train


@dataclass(frozen=True, kw_only=True)
class SequenceData(TokenData):
    """`[data]`: pictures or their tokens or, with `dataset_source = 'text'`, the plain text file
    `train_data_path`."""

    sequence_length: int = option(
        0, low=0, high=2**20, needs=("dataset_source", ("text", "tokens")), doc="text: characters per example"
    )


@dataclass(frozen=True, kw_only=True)
class Loss(Unrolling):
    """`[loss]`: unrolled passes and weight decay."""

    weight_decay: float = option(0.0, low=0, doc="decoupled weight decay on matrices")
    legacy_weight_decay: bool = option(
        False,
        needs=("weight_decay", ()),
        doc="weight decay also on norms, biases and embeddings, as in the original",
    )


@dataclass(frozen=True, kw_only=True)
class Synthesis(Resampling, Drawing):
    """`[synthesis]`: what `synthesize.py` does, and how tokens are sampled."""

    synthesis_mode: str = option(
        choices=(*MODES, "interactive"),
        doc="as for other token models; interactive: a menu in the terminal",
    )


@dataclass(frozen=True, kw_only=True)
class HParams:
    """All options of a run. Without `data.tokenizer_path`, the tokens of pictures are their grey levels."""

    run: Run
    data: SequenceData
    model: Denoiser
    loss: Loss
    optimizer: Optimizer
    train: Train
    val: MaskedVal
    synthesis: Synthesis
    lora: LoRA

    @property
    def unread(self) -> tuple[str, ...]:
        """Options of shared sections that this model does not use: a text encoder has no equal layers."""
        return ("train.scan_blocks",) if self.model.architecture == "transformer" else ()


ARCHITECTURE = (
    "model",
    "lora.rank",
    "lora.alpha",
    "lora.targets",
    "data.target_res",
    "data.channels",
    "data.grid",
    "data.codebook_size",
    "data.sequence_length",
)
"""Options that an existing run cannot change: whole sections or `section.option`."""
