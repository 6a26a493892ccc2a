"""Masked token transformers of the original projects: their configurations and weights as ours.

Weights come as flat dicts of numpy arrays, under the names that the projects' files have.
"""

import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from dioscuri.errors import UserError, did_you_mean
from dioscuri.families.maskgit.model_options import Transformer

Arrays = Mapping[str, np.ndarray]

OPEN_MUSE = {
    "layer_norm_eps": 1e-5,
    "hidden_dropout": 0.1,
    "attention_dropout": 0.1,
    "max_position_embeddings": 256,
    "intermediate_size": 3072,
    "encoder_hidden_size": 1024,
}
"""What `MaskGitTransformer` takes for options that its configuration lacks, where ours differ."""

OPEN_MUSE_UVIT = {
    "hidden_size": 1024,
    "num_hidden_layers": 22,
    "num_attention_heads": 16,
    "intermediate_size": 2816,
    "vocab_size": 8256,
    "norm_type": "rmsnorm",
    "layer_norm_eps": 1e-6,
}
"""The same for `MaskGiTUViT_v2`."""

OPEN_MUSE_UNUSED = {
    "codebook_size",
    "mask_token_id",
    "num_vq_tokens",
    "micro_cond_embed_dim",
    "use_fused_mlp",
    "use_fused_residual_norm",
    "decoder_hidden_size",
    "_class_name",
    "_version",
    "_name_or_path",
}
"""Options that follow from others, name the class or choose a faster implementation."""

FLAX_NAMES = (
    (r"Embed_0\.", "embed."),
    (r"MlmLayer_0\.mlm_bias\.bias", "mlm_layer.mlm_bias"),
    (r"MlmLayer_0\.", "mlm_layer."),
    (r"TransformerLayer_(\d+)\.", r"transformer_layers.\1."),
    (r"Attention_0\.self_attention\.", "attention."),
    (r"Attention_0\.", ""),
    (r"Mlp_0\.", ""),
    (r"\.(embedding|scale|kernel)$", ".weight"),
)

LUCIDRAINS_UNUSED = re.compile(r"(^|\.)beta$|^(critic\.)?norm\.")
"""Buffers of zeros, and a norm behind the one that is used."""


def open_muse_options(config: Mapping[str, Any]) -> Transformer:
    """Options of a `config.json` (or the `transformer` part of a training configuration) of open-muse."""
    is_uvit = str(config.get("_class_name", "")).startswith("MaskGiTUViT") or "block_out_channels" in config
    own = {declared.name for declared in fields(Transformer)}
    options: dict[str, Any] = dict(OPEN_MUSE_UVIT if is_uvit else OPEN_MUSE)
    for name, value in config.items():
        if name in own:
            options[name] = 0 if value is None else tuple(value) if isinstance(value, list) else value
        elif name not in OPEN_MUSE_UNUSED and not is_uvit:
            raise UserError(f"the configuration's option '{name}' is unknown{did_you_mean(name, own)}")
    if isinstance(options.get("block_num_heads"), tuple):
        options["block_num_heads"] = options["block_num_heads"][0]
    if options.get("use_conv_in_out"):
        options["max_position_embeddings"] = 256
    options["legacy_mlp_layernorm"] = options.get("norm_type") == "rmsnorm"
    return Transformer(**{**options, "architecture": "uvit" if is_uvit else "maskgit"})


def google_options(config: Mapping[str, Any], codebook_size: int) -> Transformer:
    """Options of google-research/maskgit: `vocab_size` counts codes, classes and the mask."""
    return Transformer(
        architecture="google",
        hidden_size=config["hidden_size"],
        num_hidden_layers=config["num_hidden_layers"],
        num_attention_heads=config["num_attention_heads"],
        intermediate_size=config["intermediate_size"],
        hidden_dropout=config["hidden_dropout_prob"],
        attention_dropout=config["attention_probs_dropout_prob"],
        max_position_embeddings=config["max_position_embeddings"],
        vocab_size=config["vocab_size"],
        num_classes=config["vocab_size"] - codebook_size - 1,
    )


def halton_options(config: Mapping[str, Any]) -> Transformer:
    """Options of Halton-MaskGIT's `Transformer`."""
    return Transformer(
        architecture="halton",
        hidden_size=config["hidden_dim"],
        num_hidden_layers=config["depth"],
        num_attention_heads=config["heads"],
        intermediate_size=config["mlp_dim"],
        hidden_dropout=config["dropout"],
        attention_dropout=config["dropout"],
        num_classes=config["nclass"],
        register=config["register"],
        proj=config["proj"],
    )


def lucidrains_options(config: Mapping[str, Any], text_width: int, critic: str = "none") -> Transformer:
    """Options of muse-maskgit-pytorch's `MaskGitTransformer`; `text_width` is that of its text encoder."""
    return Transformer(
        architecture="lucidrains",
        hidden_size=config["dim"],
        num_hidden_layers=config["depth"],
        num_attention_heads=config.get("heads", 8),
        head_dim=config.get("dim_head", 64),
        intermediate_size=config.get("ff_mult", 4) * config["dim"],
        encoder_hidden_size=text_width,
        self_cond=config.get("self_cond", False),
        critic=critic,
    )


def from_google(arrays: Arrays) -> dict[str, np.ndarray]:
    """Flax parameters, names joined with '/', as ours: heads side by side, matrices (out, in)."""
    return {google_name(name): _from_flax_layout(name, array) for name, array in arrays.items()}


def google_name(name: str) -> str:
    """Our name of a flax parameter: `TransformerLayer_0/Mlp_0/layer_output/kernel` and so on."""
    name = name.replace("/", ".")
    for pattern, replacement in FLAX_NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def from_halton(arrays: Arrays) -> dict[str, np.ndarray]:
    """Without the wrappers' prefixes, and without the output layer's weight, which is the embedding."""
    found = {re.sub(r"^(module\.|_orig_mod\.)+", "", name): array for name, array in arrays.items()}
    head = found.pop("head.weight", None)
    if head is not None and not np.array_equal(head, found["tok_emb.weight"]):
        raise UserError("head.weight differs from tok_emb.weight: these are no weights of Halton-MaskGIT")
    return found


def from_lucidrains(arrays: Arrays, *, self_cond: bool = False) -> dict[str, np.ndarray]:
    """Network and token critic, without what is not used: zero summands of norms, a second last norm, and,
    where there is no self-conditioning, its layers."""
    renamed = {_lucidrains_name(name): array for name, array in arrays.items()}
    for name, array in renamed.items():
        if name.endswith(".beta") and array.any():
            raise UserError(f"'{name}' is not zero: these are no weights of muse-maskgit-pytorch")
    unused = ("critic.self_cond",) if self_cond else ("critic.self_cond", "self_cond")
    return {
        name: array
        for name, array in renamed.items()
        if not LUCIDRAINS_UNUSED.search(name) and not name.startswith(unused)
    }


def _lucidrains_name(name: str) -> str:
    return re.sub("^token_critic", "critic", name.removeprefix("transformer."))


def _from_flax_layout(name: str, array: np.ndarray) -> np.ndarray:
    """Attention kernels (C, N, K) or, of its output, (N, K, C); biases (N, K)."""
    if "/self_attention/" not in name:
        return array.T if name.endswith("/kernel") else array
    if name.endswith("/bias"):
        return array.reshape(-1)
    flat = array.reshape(-1, array.shape[-1]) if "/out/" in name else array.reshape(len(array), -1)
    return flat.T
