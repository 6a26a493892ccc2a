"""Models in Meissonic's layout (`Transformer2DModel` of viiika/Meissonic, Monetico) as ours, and back."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from dioscuri.errors import UserError
from dioscuri.families.maskgit.model_options import Transformer
from dioscuri.importers.options import check_names

Arrays = Mapping[str, np.ndarray]

SAMPLING: dict[str, Any] = {
    "sampler": "confidence", "steps": 48, "sampling_schedule": "cosine", "temperature": (2.0, 0.0),
    "guidance_scale": 8.0, "legacy_temperature": False, "legacy_mask_count": False,
    "legacy_known_confidence": True, "legacy_timestep": True,
}  # fmt: skip
"""Default sampling of Meissonic's `Pipeline`. Guidance is smaller by one here: 0 is the conditional logits
alone."""

TIMESTEP_FACTOR = 1000.0
"""The training program multiplies by 1000 what the network multiplies by 1000 again."""

_NAMES = {
    "num_attention_heads": "num_attention_heads",
    "num_layers": "num_hidden_layers",
    "num_single_layers": "num_single_layers",
    "joint_attention_dim": "encoder_hidden_size",
    "pooled_projection_dim": "cond_embed_dim",
    "vocab_size": "vocab_size",
}
_OTHERS = {
    *("attention_head_dim", "axes_dims_rope", "codebook_size", "downsample", "upsample", "guidance_embeds"),
    *("patch_size", "in_channels"),
}
_COMPILED = "_orig_mod."
"""Prefix of the names of a network that was saved while it was compiled."""


def meissonic_options(config: Mapping[str, Any]) -> tuple[Transformer, dict[str, Any]]:
    """Options of a `Transformer2DModel` and of `[data]`; pictures have 1024 pixels a side with resampling,
    else 512, and 16 a token."""
    check_names(config, {*_NAMES, *_OTHERS})
    down = config.get("downsample", False)
    if down != config.get("upsample", False):
        raise UserError("a Transformer2DModel needs both downsample and upsample, or neither")
    if config.get("guidance_embeds"):
        raise UserError("a Transformer2DModel with guidance_embeds is not supported")
    model = Transformer(
        **{ours: config[theirs] for theirs, ours in _NAMES.items()},
        architecture="meissonic",
        hidden_size=config["num_attention_heads"] * config["attention_head_dim"],
        axes_dims_rope=tuple(config["axes_dims_rope"]),
        force_down_up_sample=down,
        timestep_factor=TIMESTEP_FACTOR,
    )
    grid = meissonic_side(config)
    data = {"grid": grid, "codebook_size": config["codebook_size"], "target_res": 16 * grid, "channels": 3}
    return model, {**data, "labels": False}


def meissonic_side(config: Mapping[str, Any]) -> int:
    """Tokens per side of the pictures on which a model was trained."""
    return 64 if config.get("downsample", False) else 32


def from_meissonic(arrays: Arrays) -> dict[str, np.ndarray]:
    """Canonical names, which are Meissonic's."""
    return {name.removeprefix(_COMPILED): array for name, array in arrays.items()}
