"""The smallest classifier, on the digits."""

from pathlib import Path

from dioscuri.hparams import load

ROOT = Path(__file__).parents[2]
DIGITS = ROOT / "egs" / "classifier" / "digits.cfg"
SMALL = (
    "run.name=tiny",
    "model.widths=[4, 6]",
    "train.total_train_steps=8",
    "train.batch_size=8",
    "train.logging_interval_in_steps=1",
    "train.checkpoint_and_eval_interval_in_steps=4",
    "val.n_samples_for_validation=20",
    "val.batch_size=16",
    "synthesis.batch_size=16",
    "synthesis.n_samples=40",
)


def tiny(*overrides):
    """Options of the tiny classifier."""
    return load(DIGITS, (*SMALL, *overrides))
