"""MaskGIT of google-research (Flax): converts options and weights of its transformer and tokenizer.

Weights are flat dicts of arrays whose names are the tree's, joined by '/'.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from dioscuri.errors import UserError
from dioscuri.families.maskgit.model_options import Transformer
from dioscuri.families.vqgan.model_options import Tokenizer
from dioscuri.families.vqgan.plan import TokenizerPlan

Arrays = Mapping[str, np.ndarray]

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

_GOOGLE = {
    "quantizer": ("vq",),
    "conv_downsample": (False,),
    "activation_fn": ("swish",),
    "norm_type": ("GN",),
}
"""The supported options of MaskGIT's tokenizer."""

_LAYER = re.compile(r"(encoder|decoder)/(?:ResBlock_(\d+)/)?(Conv|GroupNorm)_(\d+)/(kernel|bias|scale)")
_IN_BLOCK = {
    ("GroupNorm", 0): "norm1",
    ("GroupNorm", 1): "norm2",
    ("Conv", 0): "conv1",
    ("Conv", 1): "conv2",
    ("Conv", 2): "nin_shortcut",
}


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


def google_tokenizer(config: Mapping[str, Any]) -> Tokenizer:
    """Options `vqvae` of google-research/maskgit."""
    for name, known in _GOOGLE.items():
        if config.get(name, known[0]) not in known:
            raise UserError(f"the configuration's {name} '{config[name]}' is not supported")
    return Tokenizer(
        architecture="maskgit",
        hidden_channels=config["filters"],
        channel_mult=tuple(config["channel_multipliers"]),
        num_res_blocks=config["num_res_blocks"],
        z_channels=config["embedding_dim"],
        embedding_dim=config["embedding_dim"],
        num_embeddings=config["codebook_size"],
        commitment_cost=config["commitment_cost"],
        entropy_loss_ratio=config["entropy_loss_ratio"],
        entropy_temperature=config["entropy_temperature"],
        entropy_type=config["entropy_loss_type"],
        legacy_shortcut=True,
    )


def from_google(arrays: Arrays) -> dict[str, np.ndarray]:
    """Flax parameters under canonical names: heads merged, matrices (out, in)."""
    return {google_name(name): _from_flax_layout(name, array) for name, array in arrays.items()}


def google_name(name: str) -> str:
    """Canonical name of a flax parameter such as `TransformerLayer_0/Mlp_0/layer_output/kernel`."""
    name = name.replace("/", ".")
    for pattern, replacement in FLAX_NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def from_google_tokenizer(arrays: Arrays, plan: TokenizerPlan) -> dict[str, np.ndarray]:
    """Parameters of MaskGIT's Flax tokenizer under canonical names and layouts.

    Flax numbers layers in the order of their calls. A `UserError` names a tensor that belongs to no layer.
    """
    tensors = {}
    for name, array in arrays.items():
        canonical = _canonical(name, plan)
        if canonical is None:
            raise UserError(f"tensor '{name}' belongs to no layer of MaskGIT's tokenizer")
        tensors[canonical] = array.transpose(3, 2, 0, 1) if name.endswith("/kernel") else array
    return tensors


def _from_flax_layout(name: str, array: np.ndarray) -> np.ndarray:
    """Attention kernels are (C, N, K), or (N, K, C) for the output; biases (N, K)."""
    if "/self_attention/" not in name:
        return array.T if name.endswith("/kernel") else array
    if name.endswith("/bias"):
        return array.reshape(-1)
    flat = array.reshape(-1, array.shape[-1]) if "/out/" in name else array.reshape(len(array), -1)
    return flat.T


def _canonical(name: str, plan: TokenizerPlan) -> str | None:
    if name == "quantizer/codebook":
        return "quantize.embedding.weight"
    match = _LAYER.fullmatch(name)
    if match is None:
        return None
    side, block, kind, number, leaf = match.groups()
    if block is None:
        layer = _outer(side, kind, int(number), len(plan.encoder))
    else:
        inner = _IN_BLOCK.get((kind, int(number)))
        layer = inner and f"{_block(side, int(block), plan)}.{inner}"
    return layer and f"{side}.{layer}.{'bias' if leaf == 'bias' else 'weight'}"


def _outer(side: str, kind: str, number: int, n_levels: int) -> str | None:
    if kind == "GroupNorm":
        return "norm_out"
    names = ["conv_in", "conv_out"]
    if side == "decoder":
        names[1:1] = [f"up.{level}.upsample_conv" for level in range(n_levels - 1, 0, -1)]
    return names[number] if number < len(names) else None


def _block(side: str, number: int, plan: TokenizerPlan) -> str:
    n, n_levels = plan.options.num_res_blocks, len(plan.encoder)
    if side == "encoder":
        level, j = divmod(number, n)
        return f"down.{level}.block.{j}" if level < n_levels else f"mid.{number - n_levels * n}"
    if number < n:
        return f"mid.{number}"
    level, j = divmod(number - n, n)
    return f"up.{n_levels - 1 - level}.block.{j}"
