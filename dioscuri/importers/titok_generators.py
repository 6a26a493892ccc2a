"""Generators of bytedance/1d-tokenizer: converts options and weights of TiTok's `ImageBert` and `UViTBert`
(Yu et al. 2024) and of `MaskGen_VQ` (Kim et al. 2025)."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from dioscuri.errors import UserError
from dioscuri.families.maskgit.model_options import Transformer

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


def generator_options(config: Mapping[str, Any]) -> tuple[Transformer, int, int]:
    """Options of a generator's configuration, the number of codes and the length of the sequence."""
    codes, model = config["model"]["vq_model"]["codebook_size"], config["model"]
    if "maskgen" in model:
        return _maskgen(config), codes, model["vq_model"]["num_latent_tokens"]
    given = model["generator"]
    kinds = {"ViT": "imagebert", "UViT": "uvitbert"}
    if given["model_type"] not in kinds:
        raise UserError(
            f"the configuration's model_type '{given['model_type']}' is not supported: {', '.join(kinds)}"
        )
    kind, width = kinds[given["model_type"]], given["hidden_size"]
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


def _maskgen(config: Mapping[str, Any]) -> Transformer:
    given, tokenizer = config["model"]["maskgen"], config["model"]["vq_model"]
    width = tokenizer.get("text_embed_dim", 768)
    micro = given["micro_condition"]
    return Transformer(
        architecture="maskgen",
        hidden_size=given["decoder_embed_dim"],
        num_hidden_layers=given["decoder_depth"],
        num_attention_heads=given["decoder_num_heads"],
        vocab_size=tokenizer["codebook_size"] + 2 + given["condition_num_classes"],
        encoder_hidden_size=width,
        cond_embed_dim=width,
        add_micro_cond_embeds=micro,
        **({"micro_cond_encode_dim": given["micro_condition_embed_dim"]} if micro else {}),
        weight_tying=given.get("weight_tying", True),
    )


def titok_sampling(
    *,
    guidance_scale: float = 3.0,
    guidance_decay: str = "constant",
    guidance_scale_pow: float = 3.0,
    randomize_temperature: float = 4.5,
    softmax_temperature_annealing: bool = False,
    num_sample_steps: int = 8,
) -> dict[str, Any]:
    """Sampling options of a call of `generate` of ImageBert or UViTBert, whose power-cosine guidance counts
    from the logits without condition, and whose linear guidance lags by a step."""
    schedules: dict[str, dict[str, Any]] = {
        "constant": {"guidance_scale": guidance_scale},
        "linear": {"guidance_scale": guidance_scale, "guidance_schedule": "linear"},
        "power-cosine": {
            "guidance_scale": guidance_scale - 1,
            "guidance_schedule": "power_cosine",
            "guidance_power": guidance_scale_pow,
        },
    }
    lags = {} if guidance_decay == "constant" else {"guidance_time": "before"}
    return {
        **_known("guidance_decay", guidance_decay, schedules),
        **lags,
        **_steps(num_sample_steps, randomize_temperature, annealing=softmax_temperature_annealing),
    }


def maskgen_sampling(
    *,
    guidance_scale: float = 12.0,
    randomize_temperature: float = 1.5,
    softmax_temperature_annealing: bool = True,
    num_sample_steps: int = 16,
    guidance_decay: str = "cosine",
    guidance_decay_scale_pow: float = 1.0,
    prob_sorting: bool = True,
    mask_schedule_strategy: str = "arccos",
) -> dict[str, Any]:
    """Sampling options of a call of `generate` of MaskGen_VQ, whose guidance begins at 1."""
    power = {"guidance_power": guidance_decay_scale_pow}
    schedules: dict[str, dict[str, Any]] = {
        "none": {},
        "linear": {"guidance_schedule": "linear"},
        "cosine": {"guidance_schedule": "power_cosine", **power},
        "flippedcosine": {"guidance_schedule": "flipped_cosine", **power},
    }
    begins = {} if guidance_decay == "none" else {"guidance_start": 1.0, "guidance_time": "after"}
    return {
        "guidance_scale": guidance_scale,
        **_known("guidance_decay", guidance_decay, schedules),
        **begins,
        **_steps(num_sample_steps, randomize_temperature, annealing=softmax_temperature_annealing),
        "sampling_schedule": mask_schedule_strategy,
        "prob_sorting": prob_sorting,
        "legacy_softmax_temperature": not softmax_temperature_annealing,
    }


def _steps(steps: int, temperature: float, *, annealing: bool) -> dict[str, Any]:
    return {
        "sampler": "logits",
        "steps": steps,
        "temperature": temperature,
        "sampling_schedule": "arccos",
        "softmax_temperature": (1.3, 0.5) if annealing else (1.0, 1.0),
    }


def _known(name: str, value: str, entries: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    if value not in entries:
        raise UserError(f"the configuration's {name} '{value}' is not supported: {', '.join(entries)}")
    return entries[value]


def from_titok_generator(weights: Arrays, options: Transformer) -> dict[str, np.ndarray]:
    """Canonical weights of a generator's file."""
    tied = options.architecture == "maskgen" and options.weight_tying
    given = {name: array for name, array in weights.items() if name not in UNUSED[: 1 + tied]}
    if POSITIONS in given:
        given[f"{POSITIONS}.weight"] = given.pop(POSITIONS)[0]
    return {canonical_name(name, options): array for name, array in given.items()}


def to_titok_generator(weights: Arrays, options: Transformer) -> dict[str, np.ndarray]:
    """The weights of a generator as the original names and shapes them."""
    given = dict(weights)
    if f"{POSITIONS}.weight" in given:
        given[POSITIONS] = given.pop(f"{POSITIONS}.weight")[None]
    return {_original_name(name, options): array for name, array in given.items()}


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
