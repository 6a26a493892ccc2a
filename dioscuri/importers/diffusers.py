"""Models in the layout of the library diffusers (aMUSEd: `VQModel`, `UVit2DModel`) as ours."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from dioscuri.checkpoint.tensor_files import config_flag
from dioscuri.errors import UserError
from dioscuri.families.maskgit.model_options import Transformer
from dioscuri.families.vqgan.model_options import Tokenizer
from dioscuri.importers.options import check_names

Arrays = Mapping[str, np.ndarray]
Rules = tuple[tuple[str, str], ...]

RESOLUTION = 256
"""Side of pictures, which the configurations do not contain."""

SAMPLING: dict[str, Any] = {
    "sampler": "confidence", "steps": 12, "sampling_schedule": "cosine", "temperature": (2.0, 0.0),
    "guidance_scale": 9.0, "legacy_temperature": False, "legacy_mask_count": False,
    "legacy_known_confidence": True,
}  # fmt: skip
"""Default sampling of `AmusedPipeline`. Guidance is smaller by one here: 0 is
the conditional logits alone."""

UVIT_OPTIONS = {
    *("hidden_size", "use_bias", "hidden_dropout", "cond_embed_dim", "micro_cond_encode_dim"),
    *("encoder_hidden_size", "vocab_size", "in_channels", "num_res_blocks", "block_num_heads"),
    *("num_hidden_layers", "num_attention_heads", "attention_dropout", "intermediate_size"),
    *("layer_norm_eps", "ln_elementwise_affine"),
}
_UVIT_OTHERS = {
    *("micro_cond_embed_dim", "codebook_size", "block_out_channels", "downsample", "upsample", "sample_size")
}
_VQ_OPTIONS = {
    *("in_channels", "out_channels", "down_block_types", "up_block_types", "block_out_channels"),
    *("layers_per_block", "act_fn", "latent_channels", "sample_size", "num_vq_embeddings"),
    *("norm_num_groups", "vq_embed_dim", "scaling_factor", "norm_type", "mid_block_add_attention"),
    *("lookup_from_codebook", "force_upcast"),
}
_ATTENDS = {"DownEncoderBlock2D": False, "AttnDownEncoderBlock2D": True}

_NORMS = {"group": "taming", "spatial": "movq"}

_ATTENTION: Rules = (
    (r"\.(?:to_q|query)\.", r".q."),
    (r"\.(?:to_k|key)\.", r".k."),
    (r"\.(?:to_v|value)\.", r".v."),
    (r"\.(?:to_out\.0|proj_attn)\.", r".proj_out."),
)
_VQ: Rules = (
    (r"\.down_blocks\.(\d+)\.resnets\.", r".down.\1.block."),
    (r"\.down_blocks\.(\d+)\.attentions\.", r".down.\1.attn."),
    (r"\.down_blocks\.(\d+)\.downsamplers\.0\.", r".down.\1.downsample."),
    (r"\.up_blocks\.(\d+)\.resnets\.", r".up.\1.block."),
    (r"\.up_blocks\.(\d+)\.attentions\.", r".up.\1.attn."),
    (r"\.up_blocks\.(\d+)\.upsamplers\.0\.", r".up.\1.upsample."),
    (r"\.mid_block\.resnets\.0\.", r".mid.block_1."),
    (r"\.mid_block\.resnets\.1\.", r".mid.block_2."),
    (r"\.mid_block\.attentions\.0\.", r".mid.attn_1."),
    (r"\.conv_shortcut\.", r".nin_shortcut."),
    (r"\.(?:group|spatial)_norm\.", r".norm."),
    (r"\.conv_norm_out\.", r".norm_out."),
    *_ATTENTION,
)
_UVIT: Rules = (
    (r"^(down|up)_block\.", r"\1_blocks.0."),
    (r"^cond_embed\.linear_1\.", r"cond_embed.0."),
    (r"^cond_embed\.linear_2\.", r"cond_embed.2."),
    (r"\.(down|up)sample\.norm\.", r".\1sample.0.norm."),
    (r"\.(down|up)sample\.conv\.", r".\1sample.1."),
    (r"(res_blocks\.\d+)\.norm\.", r"\1.norm.norm."),
    (r"\.channelwise_linear_1\.", r".channelwise.0."),
    (r"\.channelwise_norm\.", r".channelwise.2."),
    (r"\.channelwise_linear_2\.", r".channelwise.4."),
    (r"\.cond_embeds_mapper\.", r".adaLN_modulation.mapper."),
    (r"\.norm1\.linear\.", r".self_attn_adaLN_modulation.mapper."),
    (r"\.norm2\.linear\.", r".cross_attn_adaLN_modulation.mapper."),
    (r"\.norm3\.linear\.", r".ffn.adaLN_modulation.mapper."),
    (r"\.norm3\.norm\.", r".ffn.pre_mlp_layer_norm."),
    (r"\.norm1\.(?:norm\.)?", r".attn_layer_norm."),
    (r"\.norm2\.(?:norm\.)?", r".crossattn_layer_norm."),
    (r"\.attn1\.", r".attention."),
    (r"\.attn2\.", r".crossattention."),
    (r"\.to_q\.", r".query."),
    (r"\.to_k\.", r".key."),
    (r"\.to_v\.", r".value."),
    (r"\.to_out\.0\.", r".out."),
    (r"\.ff\.net\.2\.", r".ffn.wo."),
    (r"^mlm_layer\.layer_norm\.", r"mlm_layer.layer_norm.norm."),
)


def diffusers_tokenizer(config: Mapping[str, Any]) -> tuple[Tokenizer, dict[str, Any]]:
    """Options of a `VQModel` and of `[data]`.

    aMUSEd's model, which decodes looked-up codes, takes pictures in [0, 1], the others in [-1, 1].
    """
    check_names(config, _VQ_OPTIONS)
    widths, types = config["block_out_channels"], config["down_block_types"]
    wrong = [width for width in widths if width % widths[0]]
    norm = config.get("norm_type", "group")
    if wrong or norm not in _NORMS or not set(types) <= set(_ATTENDS):
        raise UserError(
            f"a VQModel of widths {list(widths)}, blocks {sorted(set(types))} and norm_type '{norm}' is not "
            "supported"
        )
    model = Tokenizer(
        architecture=_NORMS[norm],
        hidden_channels=widths[0],
        channel_mult=tuple(width // widths[0] for width in widths),
        num_res_blocks=config["layers_per_block"],
        z_channels=config["latent_channels"],
        num_embeddings=config["num_vq_embeddings"],
        embedding_dim=config.get("vq_embed_dim") or config["latent_channels"],
        norm_groups=config.get("norm_num_groups", 32),
        attn_resolutions=tuple(RESOLUTION >> i for i, kind in enumerate(types) if _ATTENDS[kind]),
        mid_attention=config.get("mid_block_add_attention", True),
        legacy_commitment=True,
        pixel_range="unit" if config_flag(config, "lookup_from_codebook") else "signed",
    )
    return model, {"target_res": RESOLUTION, "channels": config.get("in_channels", 3)}


def diffusers_uvit(config: Mapping[str, Any]) -> tuple[Transformer, dict[str, Any]]:
    """Options of a `UVit2DModel` and of `[data]`."""
    check_names(config, UVIT_OPTIONS | _UVIT_OTHERS)
    down = config["downsample"]
    if down != config["upsample"]:
        raise UserError("a UVit2DModel with downsample but no upsample, or the reverse, is not supported")
    model = Transformer(
        **{name: value for name, value in config.items() if name in UVIT_OPTIONS},
        architecture="uvit",
        block_out_channels=(config["block_out_channels"],),
        force_down_up_sample=down,
        norm_type="rmsnorm",
        legacy_mlp_layernorm=True,
    )
    grid = 32 if down else 16
    data = {"grid": grid, "codebook_size": config["codebook_size"], "target_res": 16 * grid, "channels": 3}
    return model, {**data, "labels": False, "attend_padding": True}


def from_diffusers_tokenizer(arrays: Arrays) -> dict[str, np.ndarray]:
    """Canonical names: levels counted from the finest, attention matrices as 1x1 kernels."""
    levels = {int(match[1]) for name in arrays if (match := re.match(r"decoder\.up_blocks\.(\d+)\.", name))}
    renamed = {}
    for name, array in arrays.items():
        canonical = re.sub(
            r"(decoder\.up\.)(\d+)",
            lambda match: f"{match[1]}{max(levels) - int(match[2])}",
            _renamed(name, _VQ),
        )
        is_matrix = array.ndim == 2 and ".attn" in canonical
        renamed[canonical] = array[:, :, None, None] if is_matrix else array
    return renamed


def from_diffusers_uvit(arrays: Arrays) -> dict[str, np.ndarray]:
    """Canonical names, with diffusers' fused gated layer split into its two halves, value before gate."""
    renamed = {}
    for name, array in arrays.items():
        if match := re.fullmatch(r"(.*)\.ff\.net\.0\.proj\.(\w+)", name):
            for layer, half in zip(("wi_1", "wi_0"), np.split(array, 2), strict=True):
                renamed[f"{match[1]}.ffn.{layer}.{match[2]}"] = half
        else:
            renamed[_renamed(name, _UVIT)] = array
    return renamed


def _renamed(name: str, rules: Rules) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name
