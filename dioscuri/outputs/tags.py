"""Log entries and progress text of training steps that all families share."""

from collections.abc import Mapping
from typing import Any


def step_tags(metrics: Mapping[str, float], scalars: Mapping[str, float], hparams: Any) -> dict[str, float]:
    """The fraction of skipped steps, as in the original VAE, the rates, and the gradient's norm."""
    rates = {f"Schedules/{name}": scalars[name] for name in ("learning_rate", "ema_decay") if name in scalars}
    return {
        "Losses/skips_count": metrics["skips"] / hparams.train.total_train_steps,
        **rates,
        "Mean_Max_Updates/Global_norm": metrics["grad_norm"],
    }


def with_skips(text: str, metrics: Mapping[str, float]) -> str:
    """A headline followed by the number of skipped updates, if any."""
    return text + (f", {int(metrics['skips'])} updates skipped" if metrics["skips"] else "")
