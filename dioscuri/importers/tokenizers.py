"""Configurations and weights of published image tokenizers as ours.

Weights come as flat dicts of numpy arrays, under the names that the projects' files have.
"""

import re
from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np

from dioscuri.errors import UserError, did_you_mean
from dioscuri.families.vqgan.model_options import Tokenizer

Arrays = Mapping[str, np.ndarray]

_OPEN_MUSE = {
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
"""What `MaskGitVQGAN` and `VQGANModel` take for options that their configuration lacks."""

_MOVQ = {
    **_OPEN_MUSE,
    "channel_mult": (1, 2, 2, 4),
    "attn_resolutions": (32,),
    "z_channels": 4,
    "num_embeddings": 16384,
    "quantized_embed_dim": 4,
}
"""The same for `MOVQ`."""

_TAMING = {
    "double_z": False,
    "z_channels": 256,
    "resolution": 256,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 128,
    "ch_mult": (1, 2, 4, 8),
    "num_res_blocks": 2,
    "attn_resolutions": (16,),
    "dropout": 0.0,
    "resamp_with_conv": True,
    "attn_type": "vanilla",
    "tanh_out": False,
}
"""Options of taming-transformers' and latent-diffusion's `ddconfig`."""

_TAMING_PARAMS = {
    *("ddconfig", "lossconfig", "n_embed", "embed_dim", "ckpt_path", "ignore_keys", "image_key", "monitor"),
    *("colorize_nlabels", "remap", "sane_index_shape", "batch_resize_range", "scheduler_config"),
    *("lr_g_factor", "use_ema", "base_learning_rate", "kl_weight", "temperature_scheduler_config"),
}

_IN_ATTENTION = re.compile(r"\.attn(_1)?\.")

FIRST_STAGE = "first_stage_model."
"""Prefix of a tokenizer's weights within those of the model that has it for its first stage."""

_GOOGLE = {
    "quantizer": ("vq",),
    "conv_downsample": (False,),
    "activation_fn": ("swish",),
    "norm_type": ("GN",),
}
"""What this project has of the options of MaskGIT's tokenizer."""


def open_muse_tokenizer(config: Mapping[str, Any], architecture: str) -> tuple[Tokenizer, dict[str, Any]]:
    """Options of open-muse's `MaskGitVQGAN` ('maskgit'), `VQGANModel` ('taming') or `MOVQ` ('movq'), and of
    `[data]`."""
    given = {name: value for name, value in config.items() if not name.startswith("_")}
    _check_names(given, _OPEN_MUSE)
    found = {**(_MOVQ if architecture == "movq" else _OPEN_MUSE), **given}
    taming = architecture != "maskgit"
    model = Tokenizer(
        architecture=architecture,
        hidden_channels=found["hidden_channels"],
        channel_mult=tuple(found["channel_mult"]),
        num_res_blocks=found["num_res_blocks"],
        z_channels=found["z_channels"],
        num_embeddings=found["num_embeddings"],
        embedding_dim=found["quantized_embed_dim"],
        dropout=found["dropout"],
        attn_resolutions=tuple(found["attn_resolutions"]) if taming else (),
        mid_attention=architecture == "movq" or not found["no_attn_mid_block"],
        resample_with_conv=found["resample_with_conv"] if taming else True,
        commitment_cost=found["commitment_cost"],
        legacy_commitment=architecture != "movq",
        legacy_shortcut=not taming,
        legacy_single_block_attention=taming,
    )
    return model, {"target_res": found["resolution"], "channels": found["num_channels"]}


def refuse_variational(found: str) -> NoReturn:
    """Raise a `UserError` that tells by what a KL autoencoder was `found` out."""
    raise UserError(
        f"{found}: a KL (variational) autoencoder has no codebook, so that there are no tokens to "
        "learn; choose a VQ one, such as latent-diffusion's vq-f8"
    )


def taming_tokenizer(params: Mapping[str, Any], *, gumbel: bool = False) -> tuple[Tokenizer, dict[str, Any]]:
    """Options of taming-transformers' `VQModel` or, `gumbel`, `GumbelVQ`, or of latent-diffusion's
    `VQModelInterface`, and of `[data]`."""
    _check_names(params, _TAMING_PARAMS)
    if params.get("remap") is not None:
        raise UserError("the configuration's option 'remap' is not supported: the codes must be all codes")
    given = params["ddconfig"]
    _check_names(given, _TAMING)
    found = {**_TAMING, **given}
    if found["double_z"]:
        refuse_variational("the configuration has double_z")
    if found["attn_type"] not in ("vanilla", "none"):
        raise UserError(f"the configuration's attn_type '{found['attn_type']}' is not supported")
    if found["tanh_out"]:
        raise UserError("the configuration's tanh_out is not supported: no published tokenizer has it")
    attends = found["attn_type"] == "vanilla"
    model = Tokenizer(
        architecture="taming",
        hidden_channels=found["ch"],
        channel_mult=tuple(found["ch_mult"]),
        num_res_blocks=found["num_res_blocks"],
        z_channels=found["z_channels"],
        num_embeddings=params["n_embed"],
        embedding_dim=params["embed_dim"],
        dropout=found["dropout"],
        attn_resolutions=tuple(found["attn_resolutions"]) if attends else (),
        mid_attention=attends,
        resample_with_conv=found["resamp_with_conv"],
        quantizer="gumbel" if gumbel else "nearest",
        gumbel_kl_weight=params.get("kl_weight", 5e-4),
        legacy_commitment=not gumbel,
        pixel_range="signed",
    )
    return model, {"target_res": found["resolution"], "channels": found["in_channels"]}


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


def from_taming(arrays: Arrays) -> dict[str, np.ndarray]:
    """Without the losses' networks, averages of the weights and the model whose first stage it is; MoVQ's
    attention, whose layers are matrices, with 1x1 kernels."""
    if any(name.startswith(FIRST_STAGE) for name in arrays):
        arrays = {
            name.removeprefix(FIRST_STAGE): array
            for name, array in arrays.items()
            if name.startswith(FIRST_STAGE)
        }
    return {
        name: array[:, :, None, None] if array.ndim == 2 and _IN_ATTENTION.search(name) else array
        for name, array in arrays.items()
        if not name.startswith(("loss.", "model_ema.", "colorize"))
    }


def from_llamagen(arrays: Arrays) -> dict[str, np.ndarray]:
    """LlamaGen's tokenizer, which Halton-MaskGIT uses: taming-transformers' network, its levels in order of
    execution, under other names; without the record of which codes were used."""
    n_levels = len({name.split(".")[2] for name in arrays if name.startswith("decoder.conv_blocks.")})
    return {
        _llamagen_name(name, n_levels): array
        for name, array in arrays.items()
        if name != "quantize.codebook_used"
    }


def _llamagen_name(name: str, n_levels: int) -> str:
    if found := re.match(r"(encoder|decoder)\.conv_blocks\.(\d+)\.(res|attn)?", name):
        level = int(found[2]) if found[1] == "encoder" else n_levels - 1 - int(found[2])
        part = {"res": "block", "attn": "attn", None: ""}[found[3]]
        side = "down" if found[1] == "encoder" else "up"
        return f"{found[1]}.{side}.{level}.{part}{name[found.end() :]}"
    parts = {"0": "block_1", "1": "attn_1", "2": "block_2"}
    return re.sub(r"\.mid\.([012])\.", lambda found: f".mid.{parts[found[1]]}.", name)


def _check_names(given: Mapping[str, Any], known: Any) -> None:
    for name in given:
        if name not in known:
            raise UserError(f"the configuration's option '{name}' is unknown{did_you_mean(name, known)}")
