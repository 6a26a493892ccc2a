"""Low-rank adapters (Hu et al. 2021, section 4.1): W x + alpha / rank B A x, where only A and B are trained.

Canonical names are those of the library peft: `<layer>.lora_A.weight` (rank, inputs) and
`<layer>.lora_B.weight` (outputs, rank); those of a 1x1 convolution end with as many ones as its kernel.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from dioscuri.errors import UserError, did_you_mean
from dioscuri.hparams.adapters import LoRA
from dioscuri.plans.noise import NoiseSpec
from dioscuri.plans.parameters import ZEROS, Init, Parameter, Table, shapes

Shapes = Mapping[str, tuple[int, ...]]

A, B = "lora_A", "lora_B"
WEIGHT, PACKED = ".weight", ".in_proj_weight"
"""Endings of the names of weights with adapters: of a dense layer, and of an attention's queries, keys and
values in one matrix, whose adapter is the attention's, as in peft."""
BASE = "base."
"""Prefix of the base model's weights among tensors that are not trained."""
NOISE = "lora."
"""Prefix of the noise of the adapters' dropout."""

GROUPS = {
    "attention": re.compile(
        r"(.*\.)?((cross)?attention\.(query|key|value|qkv|out)|attn(\.(w[qkvo]|qkv|proj|out_proj))?"
        r"|posterior\.(query|out)|to_(q|k|v|kv|out|add_out)|to_out\.0|add_[qkv]_proj)"
    ),
    "feed_forward": re.compile(
        r"(.*\.)?(ffn\.(wi_[01]|wo)|ff\.w[123]|intermediate_output|layer_output|mlp\.(fc[12]|c_fc|c_proj)"
        r"|ff(_context)?\.net\.(0\.proj|2)|single_transformer_blocks\.\d+\.proj_(mlp|out)"
        r"|feed_forward\.convs\.[01]"
        r"|layers\.\d+\.(intermediate|output|2\.[14]|1\.fn\.[03]|1\.net\.(0\.(proj|0)|3)))"
    ),
}
"""Names of the dense layers of all transformers here."""


def dense_layers(network: Shapes) -> dict[str, str]:
    """Layers that can have adapters, in the order of the parameters, and the names of their weights: dense
    layers, 1x1 convolutions, and attention with one matrix for queries, keys and values."""
    return {
        name.removesuffix(ending): name
        for name, shape in network.items()
        for ending in (WEIGHT, PACKED)
        if name.endswith(ending) and _is_matrix(name, shape)
    }


def layers_with_adapters(network: Shapes, targets: Iterable[str]) -> tuple[str, ...]:
    """Names of the layers that `lora.targets` chooses, in the order of the parameters.

    A `UserError` names a target that chooses none, and says if the network has no transformer.
    """
    dense, targets = list(dense_layers(network)), tuple(targets)
    chosen = {name for target in targets for name in _chosen(dense, target)}
    if not targets:
        raise UserError("[lora] targets is empty: name at least one layer, or 'attention'")
    if not chosen:
        raise UserError("[lora] targets: this network has no transformer, so adapters have no place in it")
    return tuple(name for name in dense if name in chosen)


def adapter_table(network: Shapes, rank: int, targets: Iterable[str]) -> Table:
    """The adapters' parameters. B is initially zero, so that they change nothing; A has PyTorch's default."""
    table: Table = {}
    dense = dense_layers(network)
    for name in layers_with_adapters(network, targets):
        outputs, inputs, *ones = network[dense[name]]
        table[f"{name}.{A}{WEIGHT}"] = Parameter((rank, inputs, *ones), Init("fan_in_uniform"))
        table[f"{name}.{B}{WEIGHT}"] = Parameter((outputs, rank, *ones), ZEROS)
    return table


def trained_shapes(hparams: Any, network: Shapes) -> Shapes:
    """Shapes of the parameters that a run trains: those of its adapters, or the whole network's."""
    options = adapters_of(hparams)
    return shapes(adapter_table(network, options.rank, options.targets)) if options else network


def adapters_of(hparams: Any) -> LoRA | None:
    """The options of a run's adapters, if it has any."""
    options: LoRA | None = getattr(hparams, "lora", None)
    return options if options and options.rank else None


def network_shapes(hparams: Any, network: Shapes) -> dict[str, tuple[int, ...]]:
    """Shapes of all parameters of the network with its adapters."""
    return {**network, **trained_shapes(hparams, network)}


def without_adapters(hparams: Any) -> Any:
    """The same options for the whole network."""
    return replace(hparams, lora=LoRA()) if adapters_of(hparams) else hparams


def adapter_noise(hparams: Any, network: Shapes, method: str, batch: int) -> tuple[NoiseSpec, ...]:
    """Uniform noise (B, inputs) for the dropout of every adapter in training; none if the rate is 0."""
    options = adapters_of(hparams)
    if options is None or not options.dropout or method != "train_step":
        return ()
    dense = dense_layers(network)
    return tuple(
        NoiseSpec(NOISE + name, "uniform", (batch, network[dense[name]][1]))
        for name in layers_with_adapters(network, options.targets)
    )


def split_adapters(weights: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Weights of the base and of its adapters."""
    adapters = {name: value for name, value in weights.items() if is_adapter(name)}
    return {name: value for name, value in weights.items() if name not in adapters}, adapters


def of_family(frozen: Mapping[str, Any]) -> dict[str, Any]:
    """Tensors that are not trained, without the weights of the base."""
    return {name: value for name, value in frozen.items() if not name.startswith(BASE)}


def is_adapter(name: str) -> bool:
    """Whether a parameter belongs to an adapter."""
    return name.endswith((f".{A}{WEIGHT}", f".{B}{WEIGHT}"))


def merged(weights: Mapping[str, Any], scale: float) -> dict[str, Any]:
    """Weights of the base with those of its adapters folded in: W + scale B A."""
    base, adapters = split_adapters(weights)
    dense = dense_layers({name: array.shape for name, array in base.items()})
    for name in adapters:
        layer = name.removesuffix(f".{A}{WEIGHT}")
        if layer != name:
            first, second = adapters[name], adapters[f"{layer}.{B}{WEIGHT}"]
            product = second.reshape(len(second), -1) @ first.reshape(len(first), -1)
            weight = base[dense[layer]]
            base[dense[layer]] = weight + scale * product.reshape(weight.shape)
    return base


def _chosen(dense: list[str], target: str) -> list[str]:
    if group := GROUPS.get(target):
        return [name for name in dense if group.fullmatch(name)]
    names = [target] if target in dense else [n for n in dense if f".{n}".endswith(f".{target}")]
    if not names:
        known = {*GROUPS, *(name.rpartition(".")[2] for name in dense)}
        hint = did_you_mean(target, known) or f"; its layers are {', '.join(sorted(known - {*GROUPS}))}"
        raise UserError(f"[lora] targets: the network has no dense layer '{target}'{hint}")
    return names


def _is_matrix(name: str, shape: tuple[int, ...]) -> bool:
    return len(shape) >= 2 and set(shape[2:]) <= {1} and not is_adapter(name)
