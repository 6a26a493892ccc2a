"""Options of a small classifier of labelled pictures, whose features are used to evaluate samples."""

from dataclasses import dataclass

from dioscuri.hparams.schema import option
from dioscuri.hparams.sections import Data, Optimizer, Run, Train, Val


@dataclass(frozen=True, kw_only=True)
class Model:
    """`[model]`: a convolutional network; its features are the channels of the last level."""

    widths: tuple[int, ...] = option(
        low=1, high=2**12, doc="channels of each level; every level halves the resolution"
    )
    n_blocks: int = option(1, low=0, high=100, doc="residual blocks per level")
    num_classes: int = option(low=2, high=2**20, doc="classes, counted from 0")


@dataclass(frozen=True, kw_only=True)
class Loss:
    """`[loss]`: cross-entropy of the classes."""

    label_smoothing: float = option(
        0.0, low=0, high=1, doc="share of the target distribution spread over all classes"
    )
    weight_decay: float = option(0.0, low=0, doc="decoupled weight decay on kernels")


@dataclass(frozen=True, kw_only=True)
class Synthesis:
    """`[synthesis]`: what `synthesize.py` does."""

    synthesis_mode: str = option(
        "features",
        choices=("features",),
        doc="features: write features, logits and labels of a split's pictures as .npy files for dioscuri "
        "evaluate",
    )
    load_ema_weights: bool = option(doc="use the averaged weights")
    batch_size: int = option(low=1, high=2**20, doc="global batch size")
    n_samples: int = option(0, low=0, high=10**9, doc="pictures to use; 0: all")
    split: str = option(
        "", choices=("", "train", "validation", "test"), doc="pictures to read; empty is test"
    )


@dataclass(frozen=True, kw_only=True)
class HParams:
    """All options of a classifier's run."""

    unread = ("train.checkpoint_activations", "train.scan_blocks")
    """Options of shared sections that this family does not use."""

    run: Run
    data: Data
    model: Model
    loss: Loss
    optimizer: Optimizer
    train: Train
    val: Val
    synthesis: Synthesis


ARCHITECTURE = ("model", "data.target_res", "data.channels", "data.num_bits", "data.dataset_source")
"""Options that an existing run cannot change: whole sections or `section.option`."""
