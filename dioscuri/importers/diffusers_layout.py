"""Our tokenizers and U-ViTs in the layout of the library diffusers (`VQModel`, `UVit2DModel`); `diffusers.py`
reads it."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from dioscuri.errors import UserError
from dioscuri.importers.diffusers import UVIT_OPTIONS

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
"""Canonical names and those of a `VQModel`, which also counts the decoder's levels from the coarsest."""

_UVIT_NAMES = (
    (r"^(down|up)_blocks\.0\.", r"\1_block."),
    (r"^cond_embed\.0\.", r"cond_embed.linear_1."),
    (r"^cond_embed\.2\.", r"cond_embed.linear_2."),
    (r"\.(down|up)sample\.0\.norm\.", r".\1sample.norm."),
    (r"\.(down|up)sample\.1\.", r".\1sample.conv."),
    (r"(res_blocks\.\d+)\.norm\.norm\.", r"\1.norm."),
    (r"(res_blocks\.\d+)\.adaLN_modulation\.mapper\.", r"\1.cond_embeds_mapper."),
    (r"\.channelwise\.0\.", r".channelwise_linear_1."),
    (r"\.channelwise\.2\.", r".channelwise_norm."),
    (r"\.channelwise\.4\.", r".channelwise_linear_2."),
    (r"\.self_attn_adaLN_modulation\.mapper\.", r".norm1.linear."),
    (r"\.cross_attn_adaLN_modulation\.mapper\.", r".norm2.linear."),
    (r"\.ffn\.adaLN_modulation\.mapper\.", r".norm3.linear."),
    (r"\.ffn\.pre_mlp_layer_norm\.", r".norm3.norm."),
    (r"(transformer_layers\.\d+)\.attn_layer_norm\.", r"\1.norm1.norm."),
    (r"(transformer_layers\.\d+)\.crossattn_layer_norm\.", r"\1.norm2.norm."),
    (r"\.attn_layer_norm\.", r".norm1."),
    (r"\.crossattn_layer_norm\.", r".norm2."),
    (r"\.attention\.", r".attn1."),
    (r"\.crossattention\.", r".attn2."),
    (r"(attn[12])\.query\.", r"\1.to_q."),
    (r"(attn[12])\.key\.", r"\1.to_k."),
    (r"(attn[12])\.value\.", r"\1.to_v."),
    (r"(attn[12])\.out\.", r"\1.to_out.0."),
    (r"\.ffn\.wo\.", r".ff.net.2."),
    (r"^mlm_layer\.layer_norm\.norm\.", r"mlm_layer.layer_norm."),
)
"""Canonical names and those of a `UVit2DModel`, which also holds a gated layer's halves in one tensor."""

_VQ_NEEDS = {
    "quantizer": ("nearest",),
    "resample_with_conv": (True,),
    "legacy_single_block_attention": (False,),
    "l2_normalised": (False,),
    "pixel_range": ("unit", "signed"),
}
_UVIT_NEEDS = {
    "norm_type": ("rmsnorm",),
    "legacy_mlp_layernorm": (True,),
    "add_cond_embeds": (True,),
    "add_micro_cond_embeds": (True,),
    "self_cond": (False,),
    "critic": ("none",),
}
"""Options that have one value, or a few, in diffusers' models."""


def to_diffusers(hparams: Any, weights: Arrays) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Configuration and weights of a `VQModel` or `UVit2DModel`, which are read back as the same network; a
    `UserError` names what diffusers does not have."""
    architecture = getattr(hparams.model, "architecture", "")
    if architecture == "taming":
        return _tokenizer(hparams, weights)
    if architecture == "uvit":
        return _uvit(hparams, weights)
    raise UserError(
        f"[model] architecture '{architecture}' is not written in the layout of diffusers, only 'taming' and "
        "'uvit' are"
    )


def _tokenizer(hparams: Any, weights: Arrays) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    model = hparams.model
    _check(model, _VQ_NEEDS, "VQModel")
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
    published = {}
    for name, array in weights.items():
        turned = re.sub(
            r"(decoder\.up\.)(\d+)", lambda found: f"{found[1]}{levels - 1 - int(found[2])}", name
        )
        published[_renamed(turned, _NAMES)] = _matrix(name, array)
    return config, published


def _uvit(hparams: Any, weights: Arrays) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    model = hparams.model
    _check(model, _UVIT_NEEDS, "UVit2DModel")
    config = {
        "_class_name": "UVit2DModel",
        **{name: getattr(model, name) for name in sorted(UVIT_OPTIONS)},
        "vocab_size": len(weights["embed.embeddings.weight"]),
        "intermediate_size": model.intermediate_size or 4 * model.hidden_size,
        "layer_norm_eps": model.layer_norm_eps or 1e-6,
        "block_out_channels": model.block_out_channels[0],
        "codebook_size": hparams.data.codebook_size,
        "downsample": model.force_down_up_sample,
        "micro_cond_embed_dim": 5 * model.micro_cond_encode_dim,
        "sample_size": hparams.data.grid,
        "upsample": model.force_down_up_sample,
    }
    published = {}
    for name, array in weights.items():
        if match := re.fullmatch(r"(.*)\.ffn\.wi_1\.(\w+)", name):
            gate = weights[f"{match[1]}.ffn.wi_0.{match[2]}"]
            published[f"{match[1]}.ff.net.0.proj.{match[2]}"] = np.concatenate([array, gate])
        elif ".ffn.wi_0." not in name:
            published[_renamed(name, _UVIT_NAMES)] = array
    return config, published


def _check(model: Any, needs: Mapping[str, tuple[Any, ...]], network: str) -> None:
    """Raise a `UserError` for an option that diffusers' network does not have."""
    for name, values in needs.items():
        if getattr(model, name) not in values:
            raise UserError(
                f"[model] {name} is {getattr(model, name)!r}, which a {network} of diffusers does not have"
            )


def _renamed(name: str, rules: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def _matrix(name: str, array: np.ndarray) -> np.ndarray:
    """1x1 kernels of attention as matrices."""
    is_kernel = array.ndim == 4 and re.search(r"\.attn(_1|\.\d+)\.", name)
    return array[:, :, 0, 0] if is_kernel else array
