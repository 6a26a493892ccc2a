"""Options of masked token models (Chang et al. 2022, MaskGIT; Chang et al. 2023, MUSE) and their training."""

from dataclasses import dataclass

from dioscuri.errors import UserError
from dioscuri.families.maskgit.model_options import BIT_GROUPS, Transformer
from dioscuri.families.maskgit.plan import TEXT
from dioscuri.families.token_models.drawing_options import Drawing
from dioscuri.families.token_models.masking_options import Masking, Sampling
from dioscuri.hparams.adapters import LoRA
from dioscuri.hparams.caption_files import CaptionFiles
from dioscuri.hparams.schema import option
from dioscuri.hparams.sections import Data, Optimizer, Run, Train, Val


@dataclass(frozen=True, kw_only=True)
class TokenData(CaptionFiles, Data):
    """`[data]`: pictures or token shards, and the tokenizer.

    With `dataset_source = 'tokens'` the paths name folders of shards. With pictures, the
    tokenizer encodes every batch.
    """

    tokenizer_path: str = option(
        "",
        path=True,
        model=True,
        doc="the tokenizer: its run folder logs-<name>, the folder it was saved to, or the name of a shipped "
        "one. Without it, a model can train on tokens but not make pictures",
    )
    grid: int = option(
        low=0, high=2**10, doc="tokens per side of a picture; 0 for sequences: 1-D tokens, and in sundae text"
    )
    sequence_length: int = option(
        0, low=0, high=2**20, doc="tokens of a picture without a grid, such as those of TiTok; needs grid=0"
    )
    codebook_size: int = option(low=1, high=2**24, doc="number of codes of the tokenizer")
    text_length: int = option(0, low=0, high=2**16, doc="tokens per encoded text; 0: no text conditioning")
    null_text_path: str = option(
        "",
        path=True,
        doc="null.safetensors of encoded texts: the empty text, used for dropped texts; without it, dropped "
        "texts are masked out or, with text_encoder_path, become the empty text",
    )
    attend_padding: bool = option(
        False,
        needs=("text_length", ()),
        doc="a text's padding takes part in attention, in training and sampling, as in the published aMUSEd "
        "and MUSE; False: it is masked. maskgen and meissonic always attend to it",
    )
    text_encoder_path: str = option(
        "",
        path=True,
        needs=("text_length", ()),
        doc="text encoder of the pictures' captions, CLIP or T5: a folder with config.json, "
        "model.safetensors and the tokenizer's files, or a pipeline's folder",
    )
    clip_skip: int = option(
        -1,
        low=-1,
        high=2**10,
        needs=("text_encoder_path", ()),
        doc="how many of the text encoder's last layers are skipped; -1: 1 for a model with a pooled state, "
        "such as aMUSEd, else 0",
    )
    aesthetic_score: float = option(
        6.0,
        low=-100,
        high=100,
        needs=("text_encoder_path", ()),
        doc="with micro-conditions: aesthetic score of training pictures without one",
    )


@dataclass(frozen=True, kw_only=True)
class Loss(Masking):
    """`[loss]`: masking and cross-entropy, conditions and weight decay."""

    cond_dropout_prob: float = option(
        0.0,
        low=0,
        high=1,
        needs_any=(
            ("model.num_classes", ()),
            ("model.add_cross_attention", (True,)),
            ("model.architecture", TEXT),
        ),
        doc="probability that a picture's condition is dropped, for guidance",
    )
    self_cond_prob: float = option(
        0.9,
        low=0,
        high=1,
        needs=("model.self_cond", (True,)),
        doc="with model.self_cond: probability that a picture is conditioned on a first pass",
    )
    use_soft_code_target: bool = option(
        False,
        doc="targets are softmax(-squared distance / soft_code_temp) over the codes instead of the nearest "
        "code; needs pictures",
    )
    soft_code_temp: float = option(
        1.0,
        low=1e-6,
        high=10**4,
        needs=("use_soft_code_target", (True,)),
        doc="temperature of the soft targets",
    )
    weight_decay: float = option(0.0, low=0, doc="decoupled weight decay on kernels and matrices")
    sum_splits: bool = option(
        False,
        needs=("model.architecture", BIT_GROUPS),
        doc="lfqbert, bert: multiply the cross-entropy by model.codebook_splits: nats per token",
    )


@dataclass(frozen=True, kw_only=True)
class MaskedVal(Val):
    """`[val]`: cross-entropy of hidden tokens, which are masked or, with sundae, replaced, and
    depend only on a picture's index."""

    mask_ratios: tuple[float, ...] = option(
        (0.1, 0.3, 0.5, 0.7, 0.9, 1.0),
        low=0,
        high=1,
        doc="shares of masked tokens, used in turn for the pictures",
    )
    report_samples: int = option(
        100, low=0, high=2**20, doc="pictures sampled after training for evaluation; 0: none"
    )

    def __post_init__(self) -> None:
        if not self.mask_ratios:
            raise UserError("[val] mask_ratios is empty: give at least one, such as [0.5]")


@dataclass(frozen=True, kw_only=True)
class Synthesis(Sampling, Drawing):
    """`[synthesis]`: what `synthesize.py` does, and how tokens are sampled."""

    texts_path: str = option(
        "",
        path=True,
        doc="folder of encoded prompts, used in turn; empty: the captions of the split",
    )


@dataclass(frozen=True, kw_only=True)
class HParams:
    """All options of a masked token model's run."""

    run: Run
    data: TokenData
    model: Transformer
    loss: Loss
    optimizer: Optimizer
    train: Train
    val: MaskedVal
    synthesis: Synthesis
    lora: LoRA


ARCHITECTURE = (
    "model",
    "lora.rank",
    "lora.alpha",
    "lora.targets",
    "data.target_res",
    "data.channels",
    "data.grid",
    "data.sequence_length",
    "data.codebook_size",
)
"""Options that an existing run cannot change: whole sections or `section.option`."""
