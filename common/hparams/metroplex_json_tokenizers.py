"""The JSON configurations of the VQ-VAE of Metroplex's later program as options of family vqgan."""

from collections.abc import Mapping
from typing import Any

from common.errors import UserError
from common.plans.block_strings import widths

Values = dict[str, Any]

SECTIONS = ("run.", "data.", "optimizer.", "train.", "val.")
"""What this family's configurations share with those of Metroplex."""


def is_tokenizer(config: Mapping[str, Any]) -> bool:
    """Whether a configuration is not of the VAE."""
    return bool(config.get("gan")) or config.get("model", "vdvae") != "vdvae"


def tokenizer_options(config: Mapping[str, Any], shared: Mapping[str, Any]) -> Values:
    """`section.option` -> value, of which `shared` are those of all Metroplex's configurations."""
    if config.get("gan") or config["model"] != "vqvae":
        raise UserError("JSON key 'model': only 'vdvae' and 'vqvae' of the later program can be converted")
    values = {name: value for name, value in shared.items() if name.startswith(SECTIONS)}
    values |= {
        "run.family": "vqgan",
        "optimizer.gradient_skip": False,
        "loss.reconstruction": "l1",
        "loss.weight_decay": shared.get("loss.l2_weight", 0.0),
        "synthesis.synthesis_mode": "reconstruction",
        "synthesis.load_ema_weights": True,
        "synthesis.batch_size": shared["synthesis.batch_size"],
    }
    return values | _network(config) | _blocks(config)


def _network(config: Mapping[str, Any]) -> Values:
    """Widths of the finest resolution and of the grid of codes, and the quantiser."""
    width = widths(config.get("custom_width_str") or "", config.get("width") or 0)
    finest, coarsest = width(config["image_size"]), width(config.get("vq_res", 32))
    if not finest or not coarsest:
        raise UserError("JSON key 'custom_width_str' lacks the width of image_size or of vq_res")
    if "codebook_size" not in config:
        raise UserError("JSON key 'codebook_size' is missing: the number of codes")
    return {
        "model.hidden_channels": finest,
        "model.z_channels": coarsest,
        "model.embedding_dim": coarsest,
        "model.num_embeddings": config["codebook_size"],
        "model.quantizer": "ema",
        "model.ema_debiased": True,
        "model.pixel_range": "signed",
    }


def _blocks(config: Mapping[str, Any]) -> Values:
    """Of the VQ-VAE."""
    given = ("enc_blocks", "dec_blocks", "custom_width_str", "bottleneck_multiple", "block_type")
    return {
        "model.architecture": "metroplex",
        **{f"model.{name}": config[name] for name in given if config.get(name)},
    }
