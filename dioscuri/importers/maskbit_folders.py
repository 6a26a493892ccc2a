"""Folders of MaskBit's models: which model a configuration describes, and models of ours in its layout.

A configuration has `model.vq_model`, as in the original's YAML files, or `model.mlm_model`, the arguments of
the generator's constructor with its `model_cls`.
"""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from dioscuri.errors import UserError
from dioscuri.families.maskgit.model_options import BIT_GROUPS, Transformer
from dioscuri.families.vqgan.model_options import Tokenizer
from dioscuri.families.vqgan.plan import plan_of
from dioscuri.importers.maskbit import maskbit_tokenizer, to_maskbit_tokenizer
from dioscuri.importers.maskbit_generators import (
    maskbit_options,
    maskbit_sampling,
    to_maskbit_generator,
)

Arrays = Mapping[str, np.ndarray]
Options = tuple[Any, dict[str, Any]]
"""Options of `[model]` and `[data]`."""

STRIDE = 16
"""Pixels per token side of the published models."""
CLASSES = {"lfq_bert": "lfqbert", "bert": "bert"}
"""Architectures by `model_cls`."""
PUBLISHED = {
    10: (6.4, 10.5, 2.5),
    12: (7.1, 8.2, 3.0),
    14: (7.1, 7.8, 3.0),
    16: (6.5, 7.5, 2.5),
    18: (5.7, 8.5, 2.5),
}
"""Guidance, temperature of the choice and exponent of the guidance, by the number of bits, for 64 steps."""
_TRAINING = ("commitment", "entropy", "dropout", "ema_", "gumbel_", "legacy_commitment")
"""Beginnings of a tokenizer's options that do not change the network."""


def is_maskbit(config: Mapping[str, Any]) -> bool:
    """Whether a configuration is that of a model of MaskBit."""
    model = config.get("model")
    if not isinstance(model, Mapping):
        return False
    return "mlm_model" in model or "quantizer_type" in (model.get("vq_model") or {})


def tokenizer_of(config: Mapping[str, Any]) -> Options:
    """Options of a tokenizer's configuration; all published ones read pictures of 256x256 pixels."""
    given = config["model"]["vq_model"]
    if given["model_class"] == "taming":
        raise UserError(
            "model_class 'taming' is a tokenizer of taming-transformers: give its file with that YAML"
        )
    model = maskbit_tokenizer(given, legacy=given["model_class"] == "maskgit")
    return model, {"target_res": 256, "channels": given["num_channels"]}


def generator_of(config: Mapping[str, Any]) -> tuple[Transformer, dict[str, Any], dict[str, Any]]:
    """Options of a generator's configuration, and the authors' sampling options for as many bits."""
    given = config["model"]["mlm_model"]
    if given["model_cls"] not in CLASSES:
        raise UserError(f"model_cls '{given['model_cls']}' is not one of {', '.join(CLASSES)}")
    codes, side = given["codebook_size"], given["img_size"]
    data = {"grid": side // given["input_stride"], "codebook_size": codes, "target_res": side, "channels": 3}
    return (
        maskbit_options(given, CLASSES[given["model_cls"]]),
        {**data, "labels": True},
        published_sampling(codes.bit_length() - 1),
    )


def published_sampling(bits: int) -> dict[str, Any]:
    """The authors' options for 64 steps; those of 14 bits for other numbers of bits."""
    guidance, temperature, power = PUBLISHED.get(bits, PUBLISHED[14])
    options = maskbit_sampling(
        softmax_temperature=1.0,
        randomize_temperature=temperature,
        mask_schedule_strategy="arccos",
        num_steps=64,
        guidance_scale=guidance,
        guidance_annealing="cosine",
        scale_pow=power,
    )
    plain = ("legacy_temperature", "legacy_mask_count", "legacy_known_confidence")
    return {**options, **dict.fromkeys(plain, False)}


def to_maskbit(hparams: Any, weights: Arrays) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Configuration and weights of a tokenizer or generator, with the names of the original's state dict; a
    `UserError` names what the layout cannot express."""
    if isinstance(hparams.model, Tokenizer):
        return _tokenizer(hparams, weights)
    if not isinstance(hparams.model, Transformer) or hparams.model.architecture not in BIT_GROUPS:
        name = getattr(hparams.model, "architecture", hparams.run.family)
        raise UserError(f"[model] '{name}' is not a network of MaskBit: it has another layout")
    return _generator(hparams, weights)


def _tokenizer(hparams: Any, weights: Arrays) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    model: Tokenizer = hparams.model
    free = model.quantizer == "lfq"
    given = {
        "model_class": "maskgit" if model.architecture == "maskgit" else "vqgan+",
        "quantizer_type": "lookup-free" if free else "lookup",
        "codebook_size": model.num_embeddings,
        "token_size": model.embedding_dim,
        "commitment_cost": model.commitment_cost,
        "entropy_loss_weight": model.entropy_loss_ratio,
        "entropy_loss_temperature": model.entropy_temperature,
        "entropy_gamma": model.entropy_gamma,
        "num_channels": hparams.data.channels,
        "hidden_channels": model.hidden_channels,
        "channel_mult": list(model.channel_mult),
        "num_resolutions": len(model.channel_mult),
        "num_res_blocks": model.num_res_blocks,
        "sample_with_conv": model.architecture != "maskgit" and model.resample_with_conv,
        **({"num_res_blocks_decoder": n} if (n := model.num_res_blocks_decoder) else {}),
        **({} if free else {"use_l2_normalisation": model.l2_normalised}),
    }
    again = maskbit_tokenizer(given, legacy=model.architecture == "maskgit")
    for declared in fields(model):
        ours, theirs = getattr(model, declared.name), getattr(again, declared.name)
        unread = declared.name == "resample_with_conv" and model.architecture == "maskgit"
        if ours != theirs and not unread and not declared.name.startswith(_TRAINING):
            raise UserError(f"[model] {declared.name} is {ours!r}: the layout of MaskBit has only {theirs!r}")
    return {"model": {"vq_model": given}}, to_maskbit_tokenizer(weights, plan_of(hparams))


def _generator(hparams: Any, weights: Arrays) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    model, data = hparams.model, hparams.data
    arrays = to_maskbit_generator(weights)
    if model.architecture == "lfqbert":
        bits = (data.codebook_size.bit_length() - 1) // model.codebook_splits
        arrays["bits_to_indices"] = 2 ** np.arange(bits, dtype=np.int32)
    given = {
        "model_cls": next(name for name, ours in CLASSES.items() if ours == model.architecture),
        "img_size": STRIDE * data.grid,
        "input_stride": STRIDE,
        "hidden_dim": model.hidden_size,
        "codebook_size": data.codebook_size,
        "codebook_splits": model.codebook_splits,
        "depth": model.num_hidden_layers,
        "heads": model.num_attention_heads,
        "mlp_dim": model.intermediate_size or 4 * model.hidden_size,
        "dropout": model.hidden_dropout,
        "nclass": model.num_classes,
        "use_prenorm": model.use_prenorm,
    }
    return {"model": {"mlm_model": given}}, arrays
