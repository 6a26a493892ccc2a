"""Our tokenizers in the layout of the library diffusers (`VQModel`); `diffusers.py` reads it."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from dioscuri.errors import UserError
from dioscuri.families.vqgan.model_options import Tokenizer

Arrays = Mapping[str, np.ndarray]

_NAMES = (
    (r"\.down\.(\d+)\.block\.", r".down_blocks.\1.resnets."),
    (r"\.down\.(\d+)\.attn\.", r".down_blocks.\1.attentions."),
    (r"\.down\.(\d+)\.downsample\.", r".down_blocks.\1.downsamplers.0."),
    (r"\.up\.(\d+)\.block\.", r".up_blocks.\1.resnets."),
    (r"\.up\.(\d+)\.attn\.", r".up_blocks.\1.attentions."),
    (r"\.up\.(\d+)\.upsample\.", r".up_blocks.\1.upsamplers.0."),
    (r"\.mid\.block_1\.", r".mid_block.resnets.0."),
    (r"\.mid\.block_2\.", r".mid_block.resnets.1."),
    (r"\.mid\.attn_1\.", r".mid_block.attentions.0."),
    (r"\.nin_shortcut\.", r".conv_shortcut."),
    (r"\.norm_out\.", r".conv_norm_out."),
    (r"(attentions\.\d+)\.([qkv])\.", r"\1.to_\2."),
    (r"(attentions\.\d+)\.proj_out\.", r"\1.to_out.0."),
    (r"(attentions\.\d+)\.norm\.", r"\1.group_norm."),
)
"""Canonical names and diffusers' names, but for the decoder's levels, which it counts from the coarsest."""


def to_diffusers(hparams: Any, weights: Arrays) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Configuration and weights of a `VQModel`, which are read back as the same tokenizer; a `UserError`
    names what it cannot express."""
    model: Any = hparams.model
    _check(model)
    levels = len(model.channel_mult)
    attends = [hparams.data.target_res >> i in model.attn_resolutions for i in range(levels)]
    config = {
        "_class_name": "VQModel",
        "act_fn": "silu",
        "block_out_channels": [model.hidden_channels * factor for factor in model.channel_mult],
        "down_block_types": [f"{'Attn' * attends[i]}DownEncoderBlock2D" for i in range(levels)],
        "up_block_types": [f"{'Attn' * attends[-1 - i]}UpDecoderBlock2D" for i in range(levels)],
        "in_channels": hparams.data.channels,
        "out_channels": hparams.data.channels,
        "latent_channels": model.z_channels,
        "layers_per_block": model.num_res_blocks,
        "lookup_from_codebook": model.pixel_range == "unit",
        "mid_block_add_attention": model.mid_attention,
        "norm_num_groups": model.norm_groups,
        "norm_type": "group",
        "num_vq_embeddings": model.num_embeddings,
        "sample_size": hparams.data.target_res,
        "vq_embed_dim": model.embedding_dim,
    }
    return config, {_renamed(name, levels): _matrix(name, array) for name, array in weights.items()}


def _check(model: Any) -> None:
    """Raise a `UserError` for a network that is no `VQModel`."""
    if not isinstance(model, Tokenizer) or model.architecture != "taming":
        raise UserError(
            f"[model] architecture '{getattr(model, 'architecture', '')}' is not written in the layout of "
            "diffusers, only tokenizers with architecture 'taming' are"
        )
    needed = {
        "quantizer": "nearest",
        "resample_with_conv": True,
        "legacy_single_block_attention": False,
        "l2_normalised": False,
        "pixel_range": ("unit", "signed"),
    }
    for name, values in needed.items():
        value = getattr(model, name)
        if value not in (values if isinstance(values, tuple) else (values,)):
            raise UserError(f"[model] {name} is {value!r}, which a VQModel of diffusers does not have")


def _renamed(name: str, levels: int) -> str:
    name = re.sub(r"(decoder\.up\.)(\d+)", lambda found: f"{found[1]}{levels - 1 - int(found[2])}", name)
    for pattern, replacement in _NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def _matrix(name: str, array: np.ndarray) -> np.ndarray:
    """1x1 kernels of attention as matrices."""
    is_kernel = array.ndim == 4 and re.search(r"\.attn(_1|\.\d+)\.", name)
    return array[:, :, 0, 0] if is_kernel else array
