"""Default options of a new model, for options that the schema leaves without a default.

A `.cfg` must set these options; `new` need not. Families add theirs in `usual`, which may depend on
the given options, such as the resolution.
"""

from collections.abc import Mapping
from typing import Any

Values = Mapping[str, Mapping[str, Any]]
"""Section -> option -> value."""

SHARED: Values = {
    "run": {"name": "new", "seed": 0, "num_gpus": 0, "num_cpus": 2, "max_allowed_checkpoints": 3},
    "data": {
        "dataset_source": "custom",
        "train_data_path": "",
        "val_data_path": "",
        "synthesis_data_path": "",
        "target_res": 32,
        "channels": 3,
        "num_bits": 8.0,
        "random_horizontal_flip": False,
    },
    "optimizer": {
        "type": "AdamW",
        "learning_rate_scheme": "constant",
        "learning_rate": 3e-4,
        "warmup_steps": 0.0,
        "decay_steps": 1,
        "decay_start": 0,
        "min_learning_rate": 0.0,
        "decay_rate": 1.0,
        "beta1": 0.9,
        "beta2": 0.999,
        "epsilon": 1e-8,
        "clip_gradient_norm": True,
        "gradient_clip_norm_value": 1.0,
        "gradient_skip": False,
        "gradient_skip_threshold": 1e6,
    },
    "train": {
        "total_train_steps": 100_000,
        "batch_size": 64,
        "ema_decay": 0.999,
        "resume_from_ema": False,
        "logging_interval_in_steps": 100,
        "checkpoint_and_eval_interval_in_steps": 1000,
    },
    "val": {"n_samples_for_validation": 1000, "batch_size": 64},
    "synthesis": {"load_ema_weights": True, "batch_size": 64},
}


def halvings(side: int, most: int) -> int:
    """How many times a side can be halved, at most `most` times."""
    n = 0
    while n < most and side % 2 ** (n + 1) == 0:
        n += 1
    return n
