"""Our tokenizers and transformers in the layout of open-muse; `open_muse.py` reads it. Names of weights are
the same."""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import numpy as np

from dioscuri.errors import UserError
from dioscuri.families.maskgit.model_options import Transformer
from dioscuri.families.vqgan.model_options import Tokenizer
from dioscuri.importers.open_muse import (
    TOKENIZER,
    UVIT_OPTIONS,
    open_muse_options,
    open_muse_tokenizer,
)

Arrays = Mapping[str, np.ndarray]

VERSION = "0.0.1"
"""`_version` of the folders that open-muse writes."""

_TOKENIZERS = {"maskgit": "MaskGitVQGAN", "taming": "VQGANModel", "movq": "MOVQ"}
_TRANSFORMERS = {"maskgit": "MaskGitTransformer", "uvit": "MaskGiTUViT_v2"}
_OPTIONS = (
    "hidden_size", "num_hidden_layers", "num_attention_heads", "hidden_dropout", "attention_dropout",
    "add_cross_attention", "encoder_hidden_size", "project_encoder_hidden_states", "initializer_range",
    "norm_type", "use_normformer", "use_encoder_layernorm", "use_mlm_layer", "use_mlm_layernorm", "use_bias",
    "use_codebook_size_for_output", "use_conv_in_out", "patch_size",
)  # fmt: skip
"""Options of `MaskGitTransformer` that have the same names and values here."""
_OF_TRAINING = ("dropout", "hidden_dropout", "attention_dropout", "initializer_range", "commitment_cost")
_WITHOUT_EFFECT = {
    "maskgit": ("attn_resolutions", "mid_attention", "resample_with_conv", "legacy_single_block_attention"),
    "taming": (),
    "movq": (),
}
"""Options of tokenizers that change nothing in the network."""


def to_open_muse(hparams: Any, weights: Arrays) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Configuration and weights of a `MaskGitVQGAN`, `VQGANModel`, `MOVQ`, `MaskGitTransformer` or
    `MaskGiTUViT_v2`, which are read back as the same network; a `UserError` names what open-muse does not
    have."""
    is_tokenizer = isinstance(hparams.model, Tokenizer)
    names = _TOKENIZERS if is_tokenizer else _TRANSFORMERS
    architecture = getattr(hparams.model, "architecture", "")
    if not isinstance(hparams.model, Tokenizer | Transformer) or architecture not in names:
        known = ", ".join(map(repr, names))
        raise UserError(
            f"[model] architecture '{architecture}' is not written in the layout of open-muse, only {known}"
        )
    config = _tokenizer(hparams) if is_tokenizer else _transformer(hparams, weights)
    published = {"_class_name": names[architecture], "_version": VERSION, **config}
    return dict(sorted(published.items())), dict(weights)


def _tokenizer(hparams: Any) -> dict[str, Any]:
    model = hparams.model
    config = {
        **{name: getattr(model, name) for name in TOKENIZER.keys() & {f.name for f in fields(model)}},
        "channel_mult": list(model.channel_mult),
        "attn_resolutions": list(model.attn_resolutions),
        "no_attn_mid_block": not model.mid_attention,
        "quantized_embed_dim": model.embedding_dim,
        "resolution": hparams.data.target_res,
        "num_channels": hparams.data.channels,
    }
    if model.architecture == "maskgit":
        del config["no_attn_mid_block"]  # it has no attention
    read, _ = open_muse_tokenizer(config, model.architecture)
    same = ("legacy_commitment", *_WITHOUT_EFFECT[model.architecture])
    _check(model, replace(read, **{name: getattr(model, name) for name in same}))
    return config


def _transformer(hparams: Any, weights: Arrays) -> dict[str, Any]:
    model, data, uvit = hparams.model, hparams.data, hparams.model.architecture == "uvit"
    if not data.grid:
        raise UserError("[data] grid is 0, but open-muse has no tokens without a grid")
    names = ("embed.word_embeddings.weight", "embed.embeddings.weight")
    vocabulary = next(len(weights[name]) for name in names if name in weights)
    config = {
        **{name: getattr(model, name) for name in (UVIT_OPTIONS if uvit else _OPTIONS)},
        "vocab_size": vocabulary,
        "mask_token_id": vocabulary - 1,
        "codebook_size": data.codebook_size,
        "num_vq_tokens": data.grid**2,
        "intermediate_size": model.intermediate_size or 4 * model.hidden_size,
        "layer_norm_eps": model.layer_norm_eps or 1e-6,
    }
    if uvit:
        config["block_out_channels"] = list(model.block_out_channels)
        config["micro_cond_embed_dim"] = 5 * model.micro_cond_encode_dim
    else:
        config["num_classes"] = model.num_classes or None
        config["embedding_size"] = model.embedding_size or None
        config["max_position_embeddings"] = len(weights["embed.position_embeddings.weight"])
    read = open_muse_options({**config, "_class_name": _TRANSFORMERS[model.architecture]})
    derived = ("vocab_size", "intermediate_size", "layer_norm_eps", "max_position_embeddings")
    given = replace(model, **{name: getattr(read, name) for name in derived})
    if given.norm_type == "layernorm":
        given = replace(given, legacy_mlp_layernorm=False)
    _check(given, read)
    return config


def _check(model: Any, read: Any) -> None:
    """Raise a `UserError` that names an option which open-muse would read as another."""
    for declared in fields(model):
        value = getattr(model, declared.name)
        if value != getattr(read, declared.name) and declared.name not in _OF_TRAINING:
            raise UserError(
                f"[model] {declared.name} is {value!r}, which this network of open-muse does not have"
            )
