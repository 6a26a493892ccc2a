"""Generators of bytedance/1d-tokenizer: converts options and weights of TiTok's `ImageBert` and `UViTBert`
(Yu et al. 2024) and of `MaskGen_VQ` (Kim et al. 2025)."""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import numpy as np

from dioscuri.errors import UserError
from dioscuri.families.maskgit.model_options import Transformer
from dioscuri.families.maskgit.transformers import make_plan
from dioscuri.importers.titok import resolved
from dioscuri.importers.titok_sampling import chosen, maskgen_sampling, titok_sampling

Arrays = Mapping[str, np.ndarray]

IMAGEBERT_NAMES = (
    ("embed.embeddings_ln.", "model.embeddings.LayerNorm."),
    ("embed.", "model.embeddings."),
    ("transformer_layers.", "model.encoder.layer."),
    (".attention.query.", ".attention.self.query."),
    (".attention.key.", ".attention.self.key."),
    (".attention.value.", ".attention.self.value."),
    (".attention.out.", ".attention.output.dense."),
    (".attention_output_ln.", ".attention.output.LayerNorm."),
    (".intermediate_output.", ".intermediate.dense."),
    (".layer_output_ln.", ".output.LayerNorm."),
    (".layer_output.", ".output.dense."),
    ("lm_head.", "model.lm_head."),
)
"""Parts of canonical names, and what stands for them in the original; replaced in this order."""
POSITIONS = "pos_embed"
UNUSED = ("model.embeddings.position_ids", "lm_head.weight")
"""Tensors that some files hold besides the weights: a buffer of old versions of transformers, and MaskGen's
embedding under a second name."""


def is_generator(config: Mapping[str, Any]) -> bool:
    """Whether a configuration has a generator; it may describe the tokenizer, too."""
    model = config.get("model")
    return isinstance(model, Mapping) and ("generator" in model or "maskgen" in model)


def generator_options(config: Mapping[str, Any]) -> tuple[Transformer, int, int]:
    """Options of a generator's configuration, the number of codes and the length of the sequence."""
    model = resolved(config, config)["model"]
    codes = model["vq_model"]["codebook_size"]
    if "maskgen" in model:
        return _maskgen(model), codes, model["vq_model"]["num_latent_tokens"]
    given = model["generator"]
    kinds = {"ViT": "imagebert", "UViT": "uvitbert"}
    kind, width = chosen("model_type", given["model_type"], kinds), given["hidden_size"]
    dropouts = {"hidden_dropout": given["dropout"], "attention_dropout": given["attn_drop"]}
    options = Transformer(
        architecture=kind,
        hidden_size=width,
        num_hidden_layers=given["num_hidden_layers"],
        num_attention_heads=given["num_attention_heads"],
        intermediate_size=int(width * (given["intermediate_size"] / width)),
        num_classes=given["condition_num_classes"],
        **(dropouts if kind == "imagebert" else {}),  # the original ignores them in UViTBert
    )
    return options, codes, given["image_seq_len"]


def _maskgen(model: Mapping[str, Any]) -> Transformer:
    given, width = model["maskgen"], model["vq_model"].get("text_embed_dim", 768)
    micro = given["micro_condition"]
    return Transformer(
        architecture="maskgen",
        hidden_size=given["decoder_embed_dim"],
        num_hidden_layers=given["decoder_depth"],
        num_attention_heads=given["decoder_num_heads"],
        vocab_size=model["vq_model"]["codebook_size"] + 2 + given["condition_num_classes"],
        encoder_hidden_size=width,
        cond_embed_dim=width,
        add_micro_cond_embeds=micro,
        **({"micro_cond_encode_dim": given["micro_condition_embed_dim"]} if micro else {}),
        weight_tying=given.get("weight_tying", True),
    )


def generator_data(config: Mapping[str, Any]) -> dict[str, Any]:
    """Options of `[data]`; pictures have 256 pixels a side unless the configuration says otherwise."""
    options, codes, length = generator_options(config)
    side = resolved(config, config).get("dataset", {}).get("preprocessing", {}).get("crop_size", 256)
    data = {"grid": 0, "sequence_length": length, "codebook_size": codes, "target_res": side, "channels": 3}
    return data | {"labels": options.num_classes > 0}


def generator_calls(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Options of calls with prompts: the aesthetic score with which MaskGen samples."""
    given = resolved(config, config)["model"].get("maskgen", {})
    score = given.get("sample_aesthetic_score")
    return {} if score is None else {"encode_prompts": {"aesthetic_score": score}}


def generator_training(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Options of `[loss]` and of sampling as in the authors' evaluation: for MaskGen the call of its README,
    for TiTok the script for ImageNet, which always anneals the temperature of the logits."""
    whole = resolved(config, config)
    model, losses = whole["model"], whole.get("losses", {})
    loss = {
        "mask_schedule": model.get("maskgen", {}).get("mask_schedule_strategy", "arccos"),
        "label_smoothing": losses.get("label_smoothing", 0.1),
        "loss_weight_unmasked_token": losses.get("loss_weight_unmasked_token", 0.1),
    }
    if "maskgen" in model:
        loss["cond_dropout_prob"] = model["maskgen"].get("text_drop_prob", 0.1)
        schedule = {"mask_schedule_strategy": loss["mask_schedule"]}
        return {
            "loss": loss,
            "synthesis": maskgen_sampling(randomize_temperature=2.0, **schedule),
        }
    given = model["generator"]
    loss["cond_dropout_prob"] = given.get("class_label_dropout", 0.1)
    names = ("guidance_scale", "guidance_decay", "guidance_scale_pow", "randomize_temperature")
    call = {name: given[name] for name in names if name in given}
    call |= {"num_sample_steps": given["num_steps"]} if "num_steps" in given else {}
    return {"loss": loss, "synthesis": titok_sampling(softmax_temperature_annealing=True, **call)}


def from_titok_generator(weights: Arrays, options: Transformer) -> dict[str, np.ndarray]:
    """Canonical weights of a generator's file."""
    tied = options.architecture == "maskgen" and options.weight_tying
    given = {name: array for name, array in weights.items() if name not in UNUSED[: 1 + tied]}
    if POSITIONS in given:
        given[f"{POSITIONS}.weight"] = given.pop(POSITIONS)[0]
    return {canonical_name(name, options): array for name, array in given.items()}


def to_original_names(weights: Arrays, options: Transformer) -> dict[str, np.ndarray]:
    """The weights of a generator as the original names and shapes them."""
    given = dict(weights)
    if f"{POSITIONS}.weight" in given:
        given[POSITIONS] = given.pop(f"{POSITIONS}.weight")[None]
    return {_original_name(name, options): array for name, array in given.items()}


def to_titok_generator(hparams: Any, weights: Arrays) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The published configuration and weights of a generator, which are read back as the same model; a
    `UserError` names what the layout cannot express."""
    model: Transformer = hparams.model
    data = hparams.data
    published = {"codebook_size": data.codebook_size, "num_latent_tokens": data.sequence_length}
    if model.architecture == "maskgen":
        published["text_embed_dim"] = model.encoder_hidden_size
    config = {
        "model": {"vq_model": published, **_published_network(model, hparams)},
        "dataset": {"preprocessing": {"crop_size": data.target_res}},
        "losses": {
            "label_smoothing": hparams.loss.label_smoothing,
            "loss_weight_unmasked_token": hparams.loss.loss_weight_unmasked_token,
        },
    }
    _check_same(hparams, config)
    return config, to_original_names(weights, model)


def _check_same(hparams: Any, config: Mapping[str, Any]) -> None:
    """Raise a `UserError` for the first option that the configuration does not bring back."""
    data, again = hparams.data, generator_options(config)[0]
    has_classes = hparams.model.architecture == "maskgen" or hparams.model.num_classes
    for name, value, fits in (
        ("data.grid", data.grid, data.sequence_length > 0),
        ("data.channels", data.channels, data.channels == 3),
        ("model.num_classes", hparams.model.num_classes, has_classes),
    ):
        if not fits:
            raise UserError(f"{name} is {value}, which the layout of TiTok cannot express")
    ours, theirs = (_explicit(model, data.codebook_size) for model in (hparams.model, again))
    for declared in fields(ours):
        value, other = getattr(ours, declared.name), getattr(theirs, declared.name)
        if value != other and declared.name != "initializer_range":
            raise UserError(
                f"[model] {declared.name} is {value!r}: the layout of TiTok has only {other!r} there"
            )


def _explicit(model: Transformer, codebook_size: int) -> Transformer:
    """The options with the values that follow from others written out."""
    plan = make_plan(model, 0, codebook_size, sequence_length=1)
    return replace(model, intermediate_size=plan.inner, vocab_size=plan.vocab_size, layer_norm_eps=plan.eps)


def _published_network(model: Transformer, hparams: Any) -> dict[str, dict[str, Any]]:
    if model.architecture == "maskgen":
        micro = model.add_micro_cond_embeds
        return {
            "maskgen": {
                "decoder_embed_dim": model.hidden_size,
                "decoder_depth": model.num_hidden_layers,
                "decoder_num_heads": model.num_attention_heads,
                "micro_condition": micro,
                "micro_condition_embed_dim": model.micro_cond_encode_dim,
                "text_drop_prob": hparams.loss.cond_dropout_prob,
                "condition_num_classes": max(model.vocab_size - hparams.data.codebook_size - 2, 0),
                "weight_tying": model.weight_tying,
                "mask_schedule_strategy": hparams.loss.mask_schedule,
            }
        }
    return {
        "generator": {
            "model_type": "ViT" if model.architecture == "imagebert" else "UViT",
            "hidden_size": model.hidden_size,
            "num_hidden_layers": model.num_hidden_layers,
            "num_attention_heads": model.num_attention_heads,
            "intermediate_size": model.intermediate_size or 4 * model.hidden_size,
            "dropout": model.hidden_dropout,
            "attn_drop": model.attention_dropout,
            "class_label_dropout": hparams.loss.cond_dropout_prob,
            "image_seq_len": hparams.data.sequence_length,
            "condition_num_classes": model.num_classes,
            "num_steps": hparams.synthesis.steps,
        }
    }


def canonical_name(name: str, options: Transformer) -> str:
    """Canonical name of a generator's tensor."""
    if options.architecture == "imagebert":
        for ours, theirs in IMAGEBERT_NAMES:
            name = name.replace(theirs, ours)
    return name


def _original_name(name: str, options: Transformer) -> str:
    if options.architecture == "imagebert":
        for ours, theirs in IMAGEBERT_NAMES:
            name = name.replace(ours, theirs)
    return name
