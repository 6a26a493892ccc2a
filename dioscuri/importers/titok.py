"""TiTok and TA-TiTok: converts their configurations and weights to ours and back."""

import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from dioscuri.errors import UserError
from dioscuri.families.vqgan.model_options import Tokenizer
from dioscuri.importers.options import check_names

SIZES = {"small": (512, 8, 8), "base": (768, 12, 12), "large": (1024, 24, 16)}
"""Width, layers and heads of the transformers."""
PROXY: dict[str, Any] = {
    "hidden_channels": 128,
    "channel_mult": (1, 1, 2, 2, 4),
    "num_res_blocks": 2,
    "z_channels": 256,
}
"""The decoder of MaskGIT's tokenizer, which the second stage trains."""
_KNOWN = {
    *("codebook_size", "token_size", "use_l2_norm", "commitment_cost", "vit_enc_model_size"),
    *("vit_dec_model_size", "vit_enc_patch_size", "vit_dec_patch_size", "num_latent_tokens"),
    *("quantize_mode", "finetune_decoder", "is_legacy", "clustering_vq", "text_context_length"),
    *("text_embed_dim", "pretrained_tokenizer_weight"),
}
_REFERENCE = re.compile(r"\$\{([\w.]+)\}")


def is_titok(config: Mapping[str, Any]) -> bool:
    """Whether a configuration is that of a TiTok or TA-TiTok tokenizer."""
    model = config.get("model")
    return isinstance(model, Mapping) and "num_latent_tokens" in (model.get("vq_model") or {})


def titok_tokenizer(
    config: Mapping[str, Any],
    sizes: Mapping[str, tuple[int, int, int]] | None = None,
    proxy: Mapping[str, Any] | None = None,
) -> tuple[Tokenizer, dict[str, Any]]:
    """Options of `[model]` and `[data]` of a whole configuration, whose references `${a.b}` are resolved.

    `sizes` and `proxy` replace the published ones.
    """
    sizes, proxy = {**SIZES, **(sizes or {})}, {**PROXY, **(proxy or {})}
    given: Mapping[str, Any] = resolved(config["model"]["vq_model"], config)
    check_names(given, _KNOWN)
    variational = given.get("quantize_mode", "vq") == "vae"
    two_stages, legacy = given.get("finetune_decoder", True), given.get("is_legacy", True)
    if two_stages and (variational or not legacy):
        raise UserError("finetune_decoder is True, which needs quantize_mode 'vq' and is_legacy True")
    text = given.get("text_context_length", 77) if _reads_text(given) else 0
    stacks = {
        f"{side}_{name}": value
        for side, short in (("encoder", "enc"), ("decoder", "dec"))
        for name, value in (
            *zip(("width", "layers", "heads"), sizes[given[f"vit_{short}_model_size"]], strict=True),
            ("patch", given[f"vit_{short}_patch_size"]),
        )
    }
    model = Tokenizer(
        architecture="titok",
        latent_tokens=given["num_latent_tokens"],
        embedding_dim=given["token_size"],
        num_embeddings=0 if variational else given["codebook_size"],
        quantizer="gaussian" if variational else "nearest",
        l2_normalised=not variational and given["use_l2_norm"],
        commitment_cost=0.25 if variational else given["commitment_cost"],
        clustered=not variational and text > 0 and given.get("clustering_vq", False),
        decoder_output="proxy_pixels" if two_stages else "proxy_codes" if legacy else "pixels",
        text_length=text,
        text_width=given.get("text_embed_dim", 768),
        legacy_latent_reshape=legacy,
        legacy_shortcut=two_stages,
        **stacks,
        **(proxy if two_stages else {}),
    )
    return model, {"target_res": config["dataset"]["preprocessing"]["crop_size"], "channels": 3}


def resolved(value: Any, root: Mapping[str, Any]) -> Any:
    """A value of OmegaConf with references to the root's entries replaced."""
    if isinstance(value, Mapping):
        return {name: resolved(entry, root) for name, entry in value.items()}
    if isinstance(value, str) and (match := _REFERENCE.fullmatch(value)):
        target: Any = root
        for name in match[1].split("."):
            target = target[name]
        return resolved(target, root)
    return value


def _reads_text(given: Mapping[str, Any]) -> bool:
    """Only TA-TiTok's configurations have these options."""
    return any(name in given for name in ("text_context_length", "text_embed_dim", "clustering_vq"))


def from_titok(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Canonical weights: those of the file but for the losses' and for what only training reads."""
    return {
        name: array
        for name, array in arrays.items()
        if name != "quantize.embed_prob" and not name.startswith("loss.")
    }


def to_titok(hparams: Any, weights: Mapping[str, np.ndarray]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The published configuration and weights of a tokenizer, which are read back as the same model; a
    `UserError` names what the layout cannot express."""
    model: Tokenizer = hparams.model
    if model.architecture != "titok":
        raise UserError(f"[model] architecture '{model.architecture}' is not TiTok's: it has another layout")
    variational = model.quantizer == "gaussian"
    codes = {
        "codebook_size": model.num_embeddings,
        "use_l2_norm": model.l2_normalised,
        "commitment_cost": model.commitment_cost,
    }
    sizes = {}
    for side in ("encoder", "decoder"):
        given = tuple(getattr(model, f"{side}_{name}") for name in ("width", "layers", "heads"))
        if given not in SIZES.values():
            known = ", ".join(f"{name} {size}" for name, size in SIZES.items())
            raise UserError(
                f"[model] {side}_width, {side}_layers and {side}_heads are {given}: the layout of TiTok has "
                f"only the sizes {known}"
            )
        sizes[side] = next(name for name, size in SIZES.items() if size == given)
    text = {"text_context_length": model.text_length, "text_embed_dim": model.text_width}
    vq_model = {
        "quantize_mode": "vae" if variational else "vq",
        **({} if variational else codes),
        "token_size": model.embedding_dim,
        "vit_enc_model_size": sizes["encoder"],
        "vit_dec_model_size": sizes["decoder"],
        "vit_enc_patch_size": model.encoder_patch,
        "vit_dec_patch_size": model.decoder_patch,
        "num_latent_tokens": model.latent_tokens,
        "finetune_decoder": model.decoder_output == "proxy_pixels",
        "is_legacy": model.decoder_output != "pixels",
        **({"clustering_vq": model.clustered, **text} if model.text_length else {}),
    }
    data = hparams.data
    config = {"model": {"vq_model": vq_model}, "dataset": {"preprocessing": {"crop_size": data.target_res}}}
    _check_same(hparams, config)
    return config, dict(weights)


def _check_same(hparams: Any, config: Mapping[str, Any]) -> None:
    """Raise a `UserError` for the first option that the configuration does not bring back."""
    model, data = titok_tokenizer(config)
    for declared in fields(model):
        name = declared.name
        ours, theirs = getattr(hparams.model, name), getattr(model, name)
        if ours != theirs and not (name == "clustered" and not model.text_length):
            raise UserError(f"[model] {name} is {ours!r}: the layout of TiTok has only {theirs!r}")
    if hparams.data.channels != data["channels"]:
        raise UserError(f"[data] channels is {hparams.data.channels}: the layout of TiTok has only 3")
