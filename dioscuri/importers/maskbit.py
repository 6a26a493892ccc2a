"""MaskBit (Weber et al. 2024): converts configurations and weights of its tokenizers."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from dioscuri.errors import UserError
from dioscuri.families.vqgan.model_options import Tokenizer
from dioscuri.families.vqgan.options import Discriminator, Loss
from dioscuri.families.vqgan.plan import TokenizerPlan
from dioscuri.importers.options import check_names

Arrays = Mapping[str, np.ndarray]

_TOKENIZER = {
    *(
        "model_class",
        "quantizer_type",
        "codebook_size",
        "token_size",
        "commitment_cost",
        "entropy_loss_weight",
    ),
    *("entropy_loss_temperature", "entropy_gamma", "num_channels", "hidden_channels", "channel_mult"),
    *(
        "num_resolutions",
        "num_res_blocks",
        "sample_with_conv",
        "num_res_blocks_decoder",
        "use_l2_normalisation",
    ),
}
_QUANTIZERS = {"lookup-free": "lfq", "lookup": "nearest"}
_DERIVED = ("quantize.bits_to_indices", "quantize.codebook")
"""Tensors of a lookup-free tokenizer's file that follow from the number of bits."""


def maskbit_tokenizer(config: Mapping[str, Any], *, legacy: bool = False) -> Tokenizer:
    """Options `model.vq_model` of a `ConvVQModel`; `legacy`: of a tokenizer of MaskGIT, with its decoder."""
    check_names(config, _TOKENIZER)
    kind = config["quantizer_type"]
    if kind not in _QUANTIZERS:
        raise UserError(f"the configuration's quantizer_type '{kind}' is not one of {', '.join(_QUANTIZERS)}")
    bits, free, strided = config["token_size"], kind == "lookup-free", config["sample_with_conv"]
    weight = config.get("entropy_loss_weight", 0.0)
    entropy = {
        "entropy_loss_ratio": weight,
        "entropy_temperature": config["entropy_loss_temperature"],
        "entropy_gamma": config["entropy_gamma"],
        "entropy_type": "clamped",
    }
    return Tokenizer(
        architecture="maskgit" if legacy and not strided else "vqgan_plus",
        hidden_channels=config["hidden_channels"],
        channel_mult=tuple(config["channel_mult"]),
        num_res_blocks=config["num_res_blocks"],
        num_res_blocks_decoder=config.get("num_res_blocks_decoder", 0),
        resample_with_conv=strided,
        z_channels=bits,
        embedding_dim=bits,
        num_embeddings=2**bits if free else config["codebook_size"],
        quantizer=_QUANTIZERS[kind],
        l2_normalised=not free and config.get("use_l2_normalisation", False),
        commitment_cost=config["commitment_cost"],
        legacy_shortcut=True,
        **(entropy if weight else {}),
    )


def maskbit_discriminator(config: Mapping[str, Any]) -> Discriminator:
    """Options of a discriminator."""
    if config["name"] != "VQGAN+Discriminator":
        return Discriminator(
            type="patchgan", num_layers=config["num_stages"], ndf=config["hidden_channels"], norm="batch"
        )
    blurs = config["blur_resample"]
    return Discriminator(
        type="vqgan+",
        num_layers=config["num_stages"],
        ndf=config["hidden_channels"],
        blur=blurs,
        blur_taps=config["blur_kernel_size"] if blurs else 4,
    )


def maskbit_loss(config: Mapping[str, Any], **more: Any) -> Loss:
    """Options of the losses, without the perceptual network's, which `more` gives."""
    return Loss(
        reconstruction=config["reconstruction_loss"],
        reconstruction_weight=config["reconstruction_weight"],
        perceptual_weight=config["perceptual_weight"],
        codebook_weight=config["quantizer_weight"],
        entropy_annealing_factor=config["entropy_annealing_factor"],
        entropy_annealing_steps=config["entropy_annealing_steps"],
        disc_start=config["discriminator_start"],
        disc_factor=config["discriminator_factor"],
        disc_weight=config["discriminator_weight"],
        disc_loss=config["discriminator_loss"].replace("-", "_"),
        adaptive_disc_weight=config["discriminator_gradient_penalty"] == "adopt_weight",
        lecam_weight=config["lecam_regularization_weight"],
        **more,
    )


def from_maskbit_tokenizer(
    arrays: Arrays, plan: TokenizerPlan, *, legacy: bool = False
) -> dict[str, np.ndarray]:
    """Canonical weights of a `ConvVQModel`, without what follows from its bits and without the losses'
    networks.

    The decoder's levels are counted from the coarsest, or with `legacy` like ours from the finest.
    """
    n = len(plan.decoder)

    def level(match: re.Match[str]) -> str:
        number = int(match[1])
        return f"decoder.up.{number if legacy else n - 1 - number}."

    tensors = {}
    for name, array in arrays.items():
        if name in _DERIVED or name.startswith("loss."):
            continue
        canonical = re.sub(r"^decoder\.up\.(\d+)\.", level, name)
        canonical = canonical.replace(".mid.res_blocks.", ".mid.").replace(".res_blocks.", ".block.")
        tensors[canonical.replace(".down_conv.", ".downsample.conv.")] = array
    return tensors


def to_maskbit_tokenizer(
    weights: Arrays, plan: TokenizerPlan, *, legacy: bool | None = None
) -> dict[str, np.ndarray]:
    """Weights and buffers of a `ConvVQModel`, the reverse of `from_maskbit_tokenizer`. By default,
    architecture 'maskgit' is written with the legacy order of levels."""
    legacy = plan.options.architecture == "maskgit" if legacy is None else legacy
    names = {"mid.": "mid.res_blocks.", "block.": "res_blocks.", "downsample.conv.": "down_conv."}
    arrays = {}
    for name, array in weights.items():
        level = re.match(r"decoder\.up\.(\d+)\.", name)
        if level and not legacy:
            name = f"decoder.up.{len(plan.decoder) - 1 - int(level[1])}.{name[level.end() :]}"
        for ours, theirs in names.items():
            name = name.replace(f".{ours}", f".{theirs}")
        arrays[name] = array
    if plan.options.quantizer == "lfq":
        powers = 2 ** np.arange(plan.embedding_dim, dtype=np.int32)
        bits = np.arange(plan.codebook_size)[:, None] // powers % 2
        arrays |= {_DERIVED[0]: powers, _DERIVED[1]: (2 * bits - 1).astype(np.float32)}
    return arrays
