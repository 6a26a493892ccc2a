"""MaskBit's generators (Weber et al. 2024): converts configurations, weights and sampling options."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from dioscuri.families.maskgit.model_options import Transformer

Arrays = Mapping[str, np.ndarray]

_NAMES = (
    (r"^token_emb\.", "input_proj."),
    (r"^first_layer\.0\.", "first_norm."),
    (r"^last_layer\.0\.", "last_dense."),
    (r"^last_layer\.2\.", "last_norm."),
    (r"^transformer\.layers\.(\d+)\.0\.norm\.", r"layers.\1.attention_norm."),
    (r"^transformer\.layers\.(\d+)\.0\.mha\.out_proj\.", r"layers.\1.attention.out."),
    (r"^transformer\.layers\.(\d+)\.1\.norm\.", r"layers.\1.ffn_norm."),
    (r"^transformer\.layers\.(\d+)\.1\.net\.0\.", r"layers.\1.intermediate."),
    (r"^transformer\.layers\.(\d+)\.1\.net\.2\.", r"layers.\1.output."),
)
_FUSED = re.compile(r"transformer\.layers\.(\d+)\.0\.mha\.in_proj_(weight|bias)")
_SINGLE = re.compile(r"layers\.(\d+)\.attention\.(query|key|value)\.(weight|bias)")
_THREE = ("query", "key", "value")


def maskbit_options(config: Mapping[str, Any], kind: str = "lfqbert") -> Transformer:
    """Options of `LFQBert` or, with kind 'bert', of `Bert`, from the arguments of their constructors."""
    return Transformer(
        architecture=kind,
        hidden_size=config["hidden_dim"],
        num_hidden_layers=config["depth"],
        num_attention_heads=config["heads"],
        intermediate_size=config["mlp_dim"],
        hidden_dropout=config["dropout"],
        attention_dropout=config["dropout"],
        num_classes=config.get("nclass", 1000),
        codebook_splits=config["codebook_splits"],
        use_prenorm=config.get("use_prenorm", False),
    )


def maskbit_sampling(
    *,
    softmax_temperature: float,
    randomize_temperature: float,
    mask_schedule_strategy: str,
    num_steps: int,
    guidance_scale: float,
    guidance_annealing: str,
    scale_pow: float,
    use_sampling_annealing: bool = False,
) -> dict[str, Any]:
    """Options of `[synthesis]` for a call of `sample`, by name."""
    schedules: dict[str, dict[str, Any]] = {
        "none": {"guidance_schedule": "constant"},
        "linear": {"guidance_schedule": "linear", "guidance_time": "before"},
        "cosine": {
            "guidance_schedule": "power_cosine",
            "guidance_time": "before",
            "guidance_power": scale_pow,
        },
    }
    divisor = (1.3, 0.5) if use_sampling_annealing else (softmax_temperature, softmax_temperature)
    return {
        "sampler": "confidence",
        "steps": num_steps,
        "sampling_schedule": mask_schedule_strategy,
        "temperature": randomize_temperature,
        "softmax_temperature": divisor,
        "guidance_scale": guidance_scale,
        **(schedules[guidance_annealing] if guidance_scale else {}),
    }


def from_maskbit_generator(arrays: Arrays) -> dict[str, np.ndarray]:
    """Canonical weights, without the buffer of powers of two. Query, key and value have a layer each."""
    tensors = {}
    for name, array in arrays.items():
        if name == "bits_to_indices":
            continue
        if fused := _FUSED.fullmatch(name):
            layer, leaf = fused.groups()
            for single, rows in zip(_THREE, np.split(array, 3), strict=True):
                tensors[f"layers.{layer}.attention.{single}.{leaf}"] = rows
            continue
        for pattern, replacement in _NAMES:
            name = re.sub(pattern, replacement, name)
        tensors |= {"pos_emb.weight": array[0]} if name == "pos_emb" else {name: array}
    return tensors


def to_maskbit_generator(tensors: Arrays) -> dict[str, np.ndarray]:
    """The original's parameters of canonical weights."""
    arrays = {}
    for name, tensor in tensors.items():
        if single := _SINGLE.fullmatch(name):
            layer, which, leaf = single.groups()
            if which == "query":
                rows = [tensors[f"layers.{layer}.attention.{one}.{leaf}"] for one in _THREE]
                arrays[f"transformer.layers.{layer}.0.mha.in_proj_{leaf}"] = np.concatenate(rows)
            continue
        arrays |= {"pos_emb": tensor[None]} if name == "pos_emb.weight" else {_original(name): tensor}
    return arrays


def _original(name: str) -> str:
    """The original's name of a canonical one; the reverse of `_NAMES`, without its old name of input_proj."""
    for pattern, replacement in _NAMES[1:]:
        ours = re.escape(replacement).replace(r"\\1", r"(\d+)")
        theirs = pattern.removeprefix("^").replace(r"(\d+)", r"\1").replace(r"\.", ".")
        if re.match(ours, name):
            return re.sub(f"^{ours}", theirs, name)
    return name
