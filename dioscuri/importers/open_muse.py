"""open-muse: converts configurations of its tokenizers and transformers; its weight names are canonical."""

from collections.abc import Mapping
from dataclasses import fields
from math import isqrt
from typing import Any

from dioscuri.errors import UserError
from dioscuri.families.maskgit.model_options import Transformer
from dioscuri.families.vqgan.model_options import Tokenizer
from dioscuri.importers.options import check_names

TOKENIZER = {
    "hidden_channels": 128,
    "channel_mult": (1, 1, 2, 2, 4),
    "num_res_blocks": 2,
    "attn_resolutions": (16,),
    "no_attn_mid_block": False,
    "z_channels": 256,
    "num_embeddings": 1024,
    "quantized_embed_dim": 256,
    "dropout": 0.0,
    "resample_with_conv": True,
    "commitment_cost": 0.25,
    "resolution": 256,
    "num_channels": 3,
}
"""Defaults of `MaskGitVQGAN` and `VQGANModel` for missing options."""

MOVQ = {
    **TOKENIZER,
    "channel_mult": (1, 2, 2, 4),
    "attn_resolutions": (32,),
    "z_channels": 4,
    "num_embeddings": 16384,
    "quantized_embed_dim": 4,
}
"""The same for `MOVQ`."""

TRANSFORMER = {
    "layer_norm_eps": 1e-5,
    "hidden_dropout": 0.1,
    "attention_dropout": 0.1,
    "max_position_embeddings": 256,
    "intermediate_size": 3072,
    "encoder_hidden_size": 1024,
}
"""Defaults of `MaskGitTransformer` for missing options where they differ from ours."""

UVIT = {
    "hidden_size": 1024,
    "num_hidden_layers": 22,
    "num_attention_heads": 16,
    "intermediate_size": 2816,
    "vocab_size": 8256,
    "norm_type": "rmsnorm",
    "layer_norm_eps": 1e-6,
}
"""The same for `MaskGiTUViT_v2`."""

UNUSED = {
    *("codebook_size", "mask_token_id", "num_vq_tokens", "use_fused_mlp", "use_fused_residual_norm"),
    *("decoder_hidden_size", "micro_cond_embed_dim", "_class_name", "_version", "_name_or_path"),
}
"""Options that follow from others, name the class or select a faster implementation."""

UVIT_OPTIONS = (
    "hidden_size", "use_bias", "hidden_dropout", "cond_embed_dim", "micro_cond_encode_dim",
    "encoder_hidden_size", "vocab_size", "in_channels", "block_out_channels", "num_res_blocks",
    "force_down_up_sample", "block_num_heads", "num_hidden_layers", "num_attention_heads",
    "attention_dropout", "intermediate_size", "norm_type", "layer_norm_eps", "ln_elementwise_affine",
    "add_cond_embeds", "add_micro_cond_embeds",
)  # fmt: skip
"""Options that `MaskGiTUViT_v2` reads; it ignores the others, which
configurations of its first version have."""

SAMPLING: dict[str, Any] = {
    "sampler": "confidence", "steps": 18, "sampling_schedule": "cosine", "temperature": 1.0,
    "guidance_scale": 0.0, "legacy_temperature": True, "legacy_mask_count": True,
    "legacy_known_confidence": True,
}  # fmt: skip
"""Default sampling of `generate2`. Guidance is smaller by one here: 0 is the conditional logits alone."""
TEXT_GUIDANCE = {"guidance_scale": 7.0}
UVIT_SAMPLING = {
    **SAMPLING, "steps": 16, "temperature": (2.0, 0.0), "guidance_scale": 9.0, "legacy_temperature": False
}  # fmt: skip
"""Default sampling of `PipelineMuse`."""


def open_muse_tokenizer(config: Mapping[str, Any], architecture: str) -> tuple[Tokenizer, dict[str, Any]]:
    """Options of `[data]` and of open-muse's `MaskGitVQGAN` ('maskgit'), `VQGANModel` ('taming') or `MOVQ`
    ('movq')."""
    stated = {name: value for name, value in config.items() if not name.startswith("_")}
    check_names(stated, TOKENIZER)
    settings = {**(MOVQ if architecture == "movq" else TOKENIZER), **stated}
    taming = architecture != "maskgit"
    model = Tokenizer(
        architecture=architecture,
        hidden_channels=settings["hidden_channels"],
        channel_mult=tuple(settings["channel_mult"]),
        num_res_blocks=settings["num_res_blocks"],
        z_channels=settings["z_channels"],
        num_embeddings=settings["num_embeddings"],
        embedding_dim=settings["quantized_embed_dim"],
        dropout=settings["dropout"],
        attn_resolutions=tuple(settings["attn_resolutions"]) if taming else (),
        mid_attention=architecture == "movq" or not settings["no_attn_mid_block"],
        resample_with_conv=settings["resample_with_conv"] if taming else True,
        commitment_cost=settings["commitment_cost"],
        legacy_commitment=architecture != "movq",
        legacy_shortcut=not taming,
        legacy_single_block_attention=taming,
    )
    return model, {"target_res": settings["resolution"], "channels": settings["num_channels"]}


def open_muse_options(config: Mapping[str, Any]) -> Transformer:
    """Options of open-muse's `config.json`, or of the section `transformer` of a training configuration."""
    uvit = is_uvit(config)
    known = set(UVIT_OPTIONS) if uvit else {declared.name for declared in fields(Transformer)}
    if not uvit:
        check_names(config.keys() - UNUSED, known)
    options: dict[str, Any] = dict(UVIT if uvit else TRANSFORMER)
    for name in config.keys() & known:
        value = config[name]
        options[name] = 0 if value is None else tuple(value) if isinstance(value, list) else value
    if isinstance(options.get("block_num_heads"), tuple):
        options["block_num_heads"] = options["block_num_heads"][0]
    if options.get("use_conv_in_out"):
        options["max_position_embeddings"] = 256
    options["legacy_mlp_layernorm"] = options.get("norm_type") == "rmsnorm"
    return Transformer(**{**options, "architecture": "uvit" if uvit else "maskgit"})


def is_uvit(config: Mapping[str, Any]) -> bool:
    """Whether a configuration describes a U-ViT."""
    return str(config.get("_class_name", "")).startswith("MaskGiTUViT") or "block_out_channels" in config


def ignored(config: Mapping[str, Any]) -> tuple[str, ...]:
    """A line that names the options that the original's U-ViT ignores, if there are any."""
    names = sorted(config.keys() - UNUSED - set(UVIT_OPTIONS)) if is_uvit(config) else []
    return (f"left out, as the original's U-ViT ignores it: {', '.join(names)}",) if names else ()


def token_data(config: Mapping[str, Any], *, grid_is_given: bool = False) -> dict[str, Any]:
    """Options of `[data]`: grid, codes and size of pictures, 16 pixels per token.

    `grid_is_given`: the user sets the grid, so the configuration may omit it.
    """
    uvit = is_uvit(config)
    n = config.get("num_vq_tokens", 1024 if config.get("force_down_up_sample") else 256)
    codes = config.get("codebook_size", 8192 if uvit else 1024)
    data = {"codebook_size": codes, "channels": 3, "labels": bool(config.get("num_classes")) and not uvit}
    if uvit or config.get("add_cross_attention"):
        data["attend_padding"] = True  # the original's mask of texts raises an error
    if isqrt(n) ** 2 == n:
        return {"grid": isqrt(n), "target_res": 16 * isqrt(n), **data}
    if not grid_is_given:
        raise UserError(
            f"num_vq_tokens {n} is not a square number: set the grid, such as data.grid=32 "
            "data.target_res=512 for 512 pixels"
        )
    return data
