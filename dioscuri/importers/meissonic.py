"""Models in Meissonic's layout (`Transformer2DModel` of viiika/Meissonic, Monetico) as ours, and back."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from dioscuri.checkpoint.tensor_files import config_flag
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
_UNUSED = {"guidance_embeds": False, "patch_size": 1, "in_channels": 64}
"""Options that the published network ignores or does not use."""
_OTHERS = {"attention_head_dim", "axes_dims_rope", "codebook_size", "downsample", "upsample", *_UNUSED}
_COMPILED = "_orig_mod."
"""Prefix of the names of a network that was saved while it was compiled."""


def meissonic_options(config: Mapping[str, Any]) -> tuple[Transformer, dict[str, Any]]:
    """Options of a `Transformer2DModel` and of `[data]`; pictures have 1024 pixels a side with resampling,
    else 512, and 16 a token."""
    check_names(config, {*_NAMES, *_OTHERS})
    down = config.get("downsample", False)
    if down != config.get("upsample", False):
        raise UserError("a Transformer2DModel needs both downsample and upsample, or neither")
    if config_flag(config, "guidance_embeds"):
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


def to_meissonic(hparams: Any, weights: Arrays) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Configuration and weights in Meissonic's layout; a `UserError` names what it cannot express."""
    model, heads = hparams.model, getattr(hparams.model, "num_attention_heads", 0)
    if getattr(model, "architecture", "") != "meissonic":
        raise UserError("Meissonic's layout is for models with [model] architecture='meissonic'")
    if model.intermediate_size not in (0, 4 * model.hidden_size) or model.layer_norm_eps not in (0, 1e-6):
        raise UserError(
            "Meissonic's layout has no [model] intermediate_size and layer_norm_eps: they must be four times "
            "hidden_size and 1e-6"
        )
    config = {
        "_class_name": "Transformer2DModel",
        "_diffusers_version": "0.30.2",
        **{theirs: getattr(model, ours) for theirs, ours in _NAMES.items()},
        "vocab_size": len(weights["embed.embeddings.weight"]),
        "attention_head_dim": model.hidden_size // heads,
        "axes_dims_rope": list(model.axes_dims_rope),
        "codebook_size": hparams.data.codebook_size,
        "downsample": model.force_down_up_sample,
        "upsample": model.force_down_up_sample,
        **_UNUSED,
    }
    return config, dict(weights)
