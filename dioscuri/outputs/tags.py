"""What the log and the progress bar say of every family's training steps."""

from collections.abc import Mapping
from typing import Any


def step_tags(metrics: Mapping[str, float], scalars: Mapping[str, float], hparams: Any) -> dict[str, float]:
    """The share of all steps that was skipped, as in the VAE's original; rates, and the gradient's norm."""
    rates = {f"Schedules/{name}": scalars[name] for name in ("learning_rate", "ema_decay") if name in scalars}
    return {
        "Losses/skips_count": metrics["skips"] / hparams.train.total_train_steps,
        **rates,
        "Mean_Max_Updates/Global_norm": metrics["grad_norm"],
    }


def with_skips(text: str, metrics: Mapping[str, float]) -> str:
    """A headline, and behind it how many updates were skipped, if any."""
    return text + (f", {int(metrics['skips'])} updates skipped" if metrics["skips"] else "")
