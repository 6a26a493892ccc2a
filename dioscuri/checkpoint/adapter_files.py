"""Files of low-rank adapters in the layouts of the libraries peft and diffusers.

peft: a folder with `adapter_config.json` and `adapter_model.safetensors`, whose tensors are named
`base_model.model.<layer>.lora_A.weight` (rank, inputs) and `.lora_B.weight` (outputs, rank). diffusers: a
file `pytorch_lora_weights.safetensors`, whose names begin with `transformer.`.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import isfinite, sqrt
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from dioscuri.checkpoint.compare import check_finite
from dioscuri.checkpoint.files import tensor_bytes
from dioscuri.checkpoint.store import Checkpoint
from dioscuri.checkpoint.tensor_files import config_flag, read_config, read_safetensors
from dioscuri.errors import UserError, shorten
from dioscuri.files import replacing, write_json
from dioscuri.hparams.adapters import LoRA
from dioscuri.plans.lora import WEIGHT, A, B, adapters_of, dense_layers

CONFIG, TENSORS, DIFFUSERS = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "pytorch_lora_weights.safetensors",
)
FOLDER = "adapter"
"""A run's subfolder with its best adapters."""

_PREFIXES = ("base_model.model.", "transformer.", "unet.", "diffusion_model.", "")
_ENDINGS = {
    **{f".{side}{middle}{WEIGHT}": side for side in (A, B) for middle in ("", ".default")},
    f".lora.down{WEIGHT}": A,
    f".lora.up{WEIGHT}": B,
}
_INNER = ".base_layer."
"""What peft puts between an attention with adapters and its last layer."""
_METADATA = "lora_adapter_metadata"
"""Where diffusers keeps the options of adapters."""

Arrays = Mapping[str, np.ndarray]
Translate = Callable[[str, str, np.ndarray], Iterable[tuple[str, np.ndarray]]]
"""From layer, side and values of a tensor to those of our layers."""


def _same_name(layer: str, side: str, array: np.ndarray) -> Iterable[tuple[str, np.ndarray]]:
    del side
    return ((layer, array),)


@dataclass(frozen=True)
class Adapter:
    """Options and weights (`<layer>.lora_A.weight`, `<layer>.lora_B.weight`) of adapters."""

    options: LoRA
    weights: dict[str, np.ndarray]


def write_adapter(folder: Path, adapter: Adapter, base: str) -> None:
    """Write adapters for peft; `base` names the model that they were trained for."""
    options = adapter.options
    layers = sorted(n.removesuffix(f".{A}{WEIGHT}") for n in adapter.weights if n.endswith(A + WEIGHT))
    inner = {layer for layer in layers if layer.rpartition(".")[0] in layers}
    config = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": base,
        "r": options.rank,
        "lora_alpha": options.alpha or options.rank,
        "lora_dropout": options.dropout,
        "target_modules": [layer for layer in layers if layer not in inner],
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    named = {}
    for name, array in adapter.weights.items():
        owner, _, leaf = name.partition(".lora_")[0].rpartition(".")
        ours = f"{owner}.{leaf}"
        theirs = f"{owner}{_INNER}{leaf}" if ours in inner else ours
        named[_PREFIXES[0] + name.replace(ours, theirs)] = array
    with replacing(folder / TENSORS) as temporary:
        temporary.write_bytes(tensor_bytes(named))
    write_json(folder / CONFIG, config)


def write_adapter_of_run(run: Path, hparams: Any, checkpoint: Checkpoint) -> None:
    """Write the averaged adapters of a run's checkpoint beside it, if it has adapters."""
    if options := adapters_of(hparams):
        write_adapter(run / FOLDER, Adapter(options, checkpoint.state["ema"]), hparams.lora.base)


def write_diffusers(folder: Path, named: Arrays) -> None:
    """Write adapters under diffusers' names, whose alpha is their rank."""
    with replacing(folder / DIFFUSERS) as temporary:
        temporary.write_bytes(tensor_bytes(named))


def read_adapter(
    where: Path, network: Mapping[str, tuple[int, ...]], translate: Translate = _same_name
) -> Adapter:
    """Adapters of a folder or a file, for a network with parameters of these shapes. `translate` gives our
    layers for a tensor of a published one.

    Adapters of different ranks and scales become such of the largest rank and one scale, which compute the
    same. A `UserError` names the first tensor that does not fit.
    """
    file = _file(where)
    tensors = read_safetensors(file)
    config = _config(file)
    alphas = {name: _number(array, name) for name, array in tensors.items() if name.endswith(".alpha")}
    named = {name: array for name, array in tensors.items() if name not in alphas}
    layers = {layer: network[weight] for layer, weight in dense_layers(network).items()}
    prefix = _prefix(named, layers)
    pairs: dict[str, dict[str, np.ndarray]] = {}
    published: dict[str, str] = {}
    for name, array in sorted(named.items()):
        layer, side = _place(name, file)
        layer = layer.removeprefix(prefix)
        for ours, values in translate(layer, side, array):
            _check_fits(name, ours, side, values, layers, file)
            published[ours] = layer
            pairs.setdefault(ours, {})[side] = values.reshape(values.shape[:2]).astype(np.float32)
            check_finite({name: pairs[ours][side]}, file)
    scales = {
        ours: _scale(
            config, layer, len(_pair(pairs[ours], layer, file)[0]), alphas.get(f"{prefix}{layer}.alpha")
        )
        for ours, layer in published.items()
    }
    if not pairs:
        raise UserError(f"{file} holds no adapters")
    return _of_one_rank(pairs, scales, config, layers)


def _file(where: Path) -> Path:
    if where.is_file():
        return where
    files = [where / name for name in (TENSORS, DIFFUSERS, f"{FOLDER}/{TENSORS}") if (where / name).is_file()]
    if not files:
        raise UserError(f"{where} holds no adapters: neither {TENSORS} nor {DIFFUSERS}")
    if len(files) > 1:
        raise UserError(f"{where} holds adapters in {files[0].name} and in {files[1].name}: name one of them")
    return files[0]


def _config(file: Path) -> dict[str, Any]:
    """Options as peft writes them: beside the tensors, or in the header of diffusers' file."""
    beside = file.with_name(CONFIG)
    if file.name == TENSORS and not beside.is_file():
        raise UserError(f"{file} has no {CONFIG} beside it, which holds its alpha")
    if file.name != DIFFUSERS and beside.is_file():
        return read_config(beside)
    try:
        with safe_open(file, "np") as opened:
            text = (opened.metadata() or {}).get(_METADATA, "{}")
        config = json.loads(text)
        return {name.rpartition(".")[2]: value for name, value in config.items()}
    except (SafetensorError, ValueError, AttributeError) as error:
        raise UserError(f"{file}: its {_METADATA} is not a table of options") from error


def _prefix(names: Iterable[str], layers: Mapping[str, Any]) -> str:
    """The prefix without which most names are those of the network's layers."""
    given_layers = [name.partition(".lora")[0] for name in names]

    def known(prefix: str) -> int:
        return sum(name.startswith(prefix) and name[len(prefix) :] in layers for name in given_layers)

    given = [prefix for prefix in _PREFIXES if all(name.startswith(prefix) for name in given_layers)]
    return max(given, key=known)


def _place(name: str, file: Path) -> tuple[str, str]:
    """Layer and side of a tensor."""
    for ending, side in _ENDINGS.items():
        if name.endswith(ending):
            return name.removesuffix(ending).replace(_INNER, "."), side
    raise UserError(
        f"{file}: tensor '{name}' is not one of low-rank adapters of dense layers: peft's other kinds are "
        "not supported"
    )


def _check_fits(
    name: str, layer: str, side: str, array: np.ndarray, layers: Mapping[str, Any], file: Path
) -> None:
    shape = layers.get(layer)
    if shape is None:
        raise UserError(
            f"{file}: tensor '{name}' does not fit: this model has no dense layer '{layer}'; the adapters "
            "belong to another base"
        )
    length, axis = (shape[1], 1) if side == A else (shape[0], 0)
    if array.ndim != len(shape) or array.shape[axis] != length or max(array.shape[2:], default=1) > 1:
        raise UserError(
            f"{file}: tensor '{name}' of shape {array.shape} does not fit the layer '{layer}' of shape "
            f"{tuple(shape)}: the adapters belong to another base"
        )


def _pair(pair: Mapping[str, np.ndarray], layer: str, file: Path) -> tuple[np.ndarray, np.ndarray]:
    missing = [side for side in (A, B) if side not in pair]
    if missing:
        raise UserError(f"{file}: the adapter of layer '{layer}' lacks {missing[0]}")
    if not len(pair[A]):
        raise UserError(f"{file}: the adapter of layer '{layer}' has rank 0: train it again")
    if len(pair[A]) != pair[B].shape[1]:
        raise UserError(
            f"{file}: the adapter of layer '{layer}' has rank {len(pair[A])} in {A}, but "
            f"{pair[B].shape[1]} in {B}"
        )
    return pair[A], pair[B]


def _scale(config: Mapping[str, Any], layer: str, rank: int, alpha: float | None) -> float:
    """Factor of a layer's product; alpha is the rank where nothing says otherwise."""
    if alpha is None:
        patterns = config.get("alpha_pattern") or {}
        if not isinstance(patterns, Mapping):
            raise UserError(f"adapters: alpha_pattern is {shorten(repr(patterns))}, not a table of layers")
        named = [value for name, value in patterns.items() if f".{layer}".endswith(f".{name}")]
        alpha = _number(named[0] if named else config.get("lora_alpha", rank), "alpha")
    return alpha / (sqrt(rank) if config_flag(config, "use_rslora") else rank)


def _number(value: Any, name: str) -> float:
    try:
        if isinstance(value, str | bool):
            raise TypeError
        return float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(f"adapters: {name} is {shorten(repr(value))}, not a number") from error


def _of_one_rank(
    pairs: Mapping[str, Mapping[str, np.ndarray]],
    scales: Mapping[str, float],
    config: Mapping[str, Any],
    layers: Mapping[str, tuple[int, ...]],
) -> Adapter:
    rank = max(len(pair[A]) for pair in pairs.values())
    first = next(iter(scales.values()))
    if not all(isfinite(scale) and scale > 0 for scale in scales.values()):
        worst = min(scales.values(), key=lambda scale: (isfinite(scale), scale))
        raise UserError(f"adapters with a scale of {worst:g} (alpha / rank) cannot be used: train them again")
    weights = {}
    for layer, pair in pairs.items():
        more, ones = rank - len(pair[A]), (1,) * (len(layers[layer]) - 2)
        padded = np.pad(pair[A], ((0, more), (0, 0)))
        weights[f"{layer}.{A}{WEIGHT}"] = padded.reshape(*padded.shape, *ones)
        factor = 1.0 if scales[layer] == first else np.float32(scales[layer] / first)
        padded = np.pad(factor * pair[B], ((0, 0), (0, more)))
        weights[f"{layer}.{B}{WEIGHT}"] = padded.reshape(*padded.shape, *ones)
    dropout = _number(config.get("lora_dropout") or 0.0, "lora_dropout")
    if not 0 <= dropout < 1:
        raise UserError(f"adapters: lora_dropout is {dropout:g}, not a probability below 1")
    options = LoRA(
        rank=rank,
        alpha=first * rank,
        targets=tuple(pairs),
        dropout=dropout,
    )
    return Adapter(options, weights)
