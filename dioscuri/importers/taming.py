"""Tokenizers of taming-transformers and latent-diffusion: converts their configurations and weights."""

import re
from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np

from dioscuri.errors import UserError
from dioscuri.families.vqgan.model_options import Tokenizer
from dioscuri.importers.options import check_names

Arrays = Mapping[str, np.ndarray]

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
"""Prefix of a tokenizer's weights within those of a model that uses it as its first stage."""


def refuse_variational(evidence: str) -> NoReturn:
    """Raise a `UserError` that gives the evidence of a KL autoencoder."""
    raise UserError(
        f"{evidence}: a KL (variational) autoencoder has no codebook, so it makes no tokens; choose a VQ "
        "one, such as latent-diffusion's vq-f8"
    )


def taming_tokenizer(params: Mapping[str, Any], *, gumbel: bool = False) -> tuple[Tokenizer, dict[str, Any]]:
    """Options of `[data]` and of taming-transformers' `VQModel` (or, with `gumbel`, `GumbelVQ`) or
    latent-diffusion's `VQModelInterface`."""
    check_names(params, _TAMING_PARAMS)
    if params.get("remap") is not None:
        raise UserError("the configuration's option 'remap' is not supported: all codes must be used")
    ddconfig = params["ddconfig"]
    check_names(ddconfig, _TAMING)
    settings = {**_TAMING, **ddconfig}
    if settings["double_z"]:
        refuse_variational("the configuration has double_z")
    if settings["attn_type"] not in ("vanilla", "none"):
        raise UserError(f"the configuration's attn_type '{settings['attn_type']}' is not supported")
    if settings["tanh_out"]:
        raise UserError("the configuration's tanh_out is not supported: no published tokenizer has it")
    attends = settings["attn_type"] == "vanilla"
    model = Tokenizer(
        architecture="taming",
        hidden_channels=settings["ch"],
        channel_mult=tuple(settings["ch_mult"]),
        num_res_blocks=settings["num_res_blocks"],
        z_channels=settings["z_channels"],
        num_embeddings=params["n_embed"],
        embedding_dim=params["embed_dim"],
        dropout=settings["dropout"],
        attn_resolutions=tuple(settings["attn_resolutions"]) if attends else (),
        mid_attention=attends,
        resample_with_conv=settings["resamp_with_conv"],
        quantizer="gumbel" if gumbel else "nearest",
        gumbel_kl_weight=params.get("kl_weight", 5e-4),
        legacy_commitment=not gumbel,
        pixel_range="signed",
    )
    return model, {"target_res": settings["resolution"], "channels": settings["in_channels"]}


def from_taming(arrays: Arrays) -> dict[str, np.ndarray]:
    """Canonical weights, without the losses' networks, averaged weights and the model whose first stage this
    is. MoVQ's attention matrices become 1x1 kernels."""
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
