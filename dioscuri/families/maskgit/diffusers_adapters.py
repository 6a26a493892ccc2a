"""Adapters of a U-ViT under the names of diffusers' `UVit2DModel`, which has one layer for a gated layer's
halves."""

import re
from collections.abc import Iterator, Mapping

import numpy as np

from dioscuri.plans.lora import WEIGHT, A, B

_NAMES = (
    (r"\b(down|up)_blocks\.0\.", r"\b(down|up)_block\.", r"\1_blocks.0.", r"\1_block."),
    (r"\.attention\.", r"\.attn1\.", ".attention.", ".attn1."),
    (r"\.crossattention\.", r"\.attn2\.", ".crossattention.", ".attn2."),
    (r"\.query$", r"\.to_q$", ".query", ".to_q"),
    (r"\.key$", r"\.to_k$", ".key", ".to_k"),
    (r"\.value$", r"\.to_v$", ".value", ".to_v"),
    (r"\.out$", r"\.to_out\.0$", ".out", ".to_out.0"),
    (r"\.ffn\.wo$", r"\.ff\.net\.2$", ".ffn.wo", ".ff.net.2"),
)
"""Patterns of our names and of theirs, and what replaces theirs and ours."""

_GATED = ".ff.net.0.proj"
_HALVES = (".ffn.wi_1", ".ffn.wi_0")
"""Value and gate."""


def from_diffusers(layer: str, side: str, array: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Our layers for a tensor of one of theirs; both halves of a gated layer share A."""
    if layer.endswith(_GATED):
        stem = layer.removesuffix(_GATED)
        halves = [array, array] if side == A else np.split(array, 2)
        yield from ((stem + name, half) for name, half in zip(_HALVES, halves, strict=True))
        return
    for _, theirs, ours, _ in _NAMES:
        layer = re.sub(theirs, ours, layer)
    yield layer, array


def to_diffusers(weights: Mapping[str, np.ndarray], scale: float) -> dict[str, np.ndarray]:
    """Tensors `transformer.<layer>.lora_A.weight` and `.lora_B.weight` of one rank, with the scale inside B,
    so that their alpha is the rank."""
    pairs: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for name, first in weights.items():
        layer = name.removesuffix(f".{A}{WEIGHT}")
        if layer != name:
            pairs[layer] = first, np.float32(scale) * weights[f"{layer}.{B}{WEIGHT}"]
    theirs = dict(_theirs(pairs))
    rank = max(len(first) for first, _ in theirs.values())
    named = {}
    for layer, (first, second) in theirs.items():
        more = rank - len(first)
        named[f"transformer.{layer}.{A}{WEIGHT}"] = np.pad(first, ((0, more), (0, 0)))
        named[f"transformer.{layer}.{B}{WEIGHT}"] = np.pad(second, ((0, 0), (0, more)))
    return named


def _theirs(
    pairs: Mapping[str, tuple[np.ndarray, np.ndarray]],
) -> Iterator[tuple[str, tuple[np.ndarray, np.ndarray]]]:
    value, gate = _HALVES
    for layer, pair in pairs.items():
        stem = layer.removesuffix(value).removesuffix(gate)
        if stem != layer:
            yield stem + _GATED, _joined(pairs.get(stem + value), pairs.get(stem + gate))
            continue
        name = layer
        for ours, _, _, new in _NAMES:
            name = re.sub(ours, new, name)
        yield name, pair


def _joined(
    value: tuple[np.ndarray, np.ndarray] | None, gate: tuple[np.ndarray, np.ndarray] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Adapters of both halves, either of which may lack, as one of the sum of their ranks."""
    given = value or gate
    assert given is not None
    nothing = np.zeros_like(given[1])[:, :0]
    firsts = [pair[0] for pair in (value, gate) if pair]
    upper, lower = (pair[1] if pair else nothing for pair in (value, gate))
    n, m = upper.shape[1], lower.shape[1]
    second = np.concatenate([np.pad(upper, ((0, 0), (0, m))), np.pad(lower, ((0, 0), (n, 0)))])
    return np.concatenate(firsts), second
