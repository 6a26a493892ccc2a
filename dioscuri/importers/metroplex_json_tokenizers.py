"""The JSON configurations of the VQ-VAE of Metroplex's later program as options of family vqgan."""

from collections.abc import Mapping
from math import gcd
from typing import Any

from dioscuri.errors import UserError, shorten
from dioscuri.families.metroplex.block_strings import widths

Values = dict[str, Any]

SECTIONS = ("run.", "data.", "optimizer.", "train.", "val.")
"""Options that this family's configurations share with Metroplex's."""


def is_tokenizer(config: Mapping[str, Any]) -> bool:
    """Whether a configuration is of a tokenizer, not of the VAE."""
    return bool(config.get("gan")) or config.get("model", "vdvae") != "vdvae"


def tokenizer_options(config: Mapping[str, Any], shared: Mapping[str, Any]) -> Values:
    """`section.option` -> value; `shared` are the options common to all of Metroplex's configurations."""
    adversarial = config.get("gan") or config["model"] == "dcvae"
    if not adversarial and config["model"] != "vqvae":
        raise UserError(f"JSON key 'model': '{config['model']}' is not 'vdvae', 'vqvae' or 'dcvae'")
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
    return values | _network(config) | (_adversarial(config) if adversarial else _blocks(config))


def _network(config: Mapping[str, Any]) -> Values:
    """Widths at the finest resolution and at the code grid, and the quantiser."""
    width = widths(config.get("custom_width_str") or "", config.get("width") or 0)
    finest, coarsest = width(config["image_size"]), width(config.get("vq_res", 32))
    if not finest or not coarsest:
        raise UserError("JSON key 'custom_width_str' lacks the width of image_size or of vq_res")
    if "codebook_size" not in config:
        raise UserError("JSON key 'codebook_size' is missing: set it to the number of codes")
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
    """Blocks of the VQ-VAE; a `UserError` if it has attention."""
    if config.get("attn_res"):
        raise UserError("JSON key 'attn_res': attention is for 'vdvae' only: leave it out")
    shared_keys = ("enc_blocks", "dec_blocks", "custom_width_str", "bottleneck_multiple", "block_type")
    return {
        "model.architecture": "metroplex",
        **{f"model.{name}": config[name] for name in shared_keys if config.get(name)},
    }


def _adversarial(config: Mapping[str, Any]) -> Values:
    """Options of DC-VAE: generator, discriminator, losses, and a learning rate constant from step 0."""
    width = widths(config.get("custom_width_str") or "", config.get("width") or 0)
    levels = [config["image_size"] >> level for level in range(config["image_size"].bit_length() - 2)]
    of_levels = [width(side) for side in levels]
    of_generator = [width(side) for side in levels if side >= config.get("vq_res", 32)]
    base, loss = gcd(*of_generator), config.get("loss_type", "NS")
    if loss not in ("NS", "HG"):
        raise UserError(f"JSON key 'loss_type': '{loss}' is neither 'NS' nor 'HG'")
    return {
        "model.architecture": "dcvae",
        "model.hidden_channels": base,
        "model.channel_mult": [n // base for n in of_generator],
        "model.num_res_blocks": config.get("blocks_per_res", 1),
        "model.legacy_unused_biases": True,
        "discriminator.type": "dcvae",
        "discriminator.widths": of_levels,
        "discriminator.blocks_per_res": config.get("blocks_per_res", 1),
        "discriminator.gan_resos": sides(config, "gan_resos", "1,4"),
        "discriminator.contra_resos": sides(config, "contra_resos", "1,4"),
        "discriminator.legacy_unused_biases": True,
        "loss.disc_loss": "non_saturating" if loss == "NS" else "hinge",
        "loss.disc_weight": 1.0,
        "loss.adaptive_disc_weight": False,
        "loss.r1_cost": (config.get("gamma") or 0.0) / 2,
        "loss.patch_nce": bool(config.get("patch_nce", True)),
        "loss.alternating": True,
        "optimizer.learning_rate_scheme": "constant_times_warmup",
        "optimizer.warmup_steps": 0.0,
        "optimizer.gradient_clip_norm_value": 1.0,
    }


def sides(config: Mapping[str, Any], key: str, default: str = "") -> list[int]:
    """'1,4,8', a number or a list as numbers; a `UserError` names the key of anything else."""
    value = config.get(key, default) or ""
    parts = value if isinstance(value, list) else str(value).split(",")
    try:
        return [int(side) for side in map(str, parts) if side.strip()]
    except ValueError:
        raise UserError(
            f"JSON key '{key}' must be resolutions such as '16,8', not {shorten(value)}"
        ) from None
