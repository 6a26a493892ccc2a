"""Names and layouts of published image tokenizers -> ours, which are those of their PyTorch ports."""

import re
from collections.abc import Mapping

import numpy as np

from dioscuri.errors import UserError
from dioscuri.families.vqgan.plan import TokenizerPlan

_LAYER = re.compile(r"(encoder|decoder)/(?:ResBlock_(\d+)/)?(Conv|GroupNorm)_(\d+)/(kernel|bias|scale)")
_IN_BLOCK = {
    ("GroupNorm", 0): "norm1",
    ("GroupNorm", 1): "norm2",
    ("Conv", 0): "conv1",
    ("Conv", 1): "conv2",
    ("Conv", 2): "nin_shortcut",
}


def from_flax(arrays: Mapping[str, np.ndarray], plan: TokenizerPlan) -> dict[str, np.ndarray]:
    """Parameters of the Flax tokenizer of MaskGIT, names joined by '/', under canonical names and layouts.

    Flax numbers layers in the order of their calls. A `UserError` names a tensor that belongs to no layer.
    """
    found = {}
    for name, array in arrays.items():
        canonical = _canonical(name, plan)
        if canonical is None:
            raise UserError(f"tensor '{name}' belongs to no layer of MaskGIT's tokenizer")
        found[canonical] = array.transpose(3, 2, 0, 1) if name.endswith("/kernel") else array
    return found


def _canonical(name: str, plan: TokenizerPlan) -> str | None:
    if name == "quantizer/codebook":
        return "quantize.embedding.weight"
    match = _LAYER.fullmatch(name)
    if match is None:
        return None
    part, block, kind, number, leaf = match.groups()
    if block is None:
        layer = _outer(part, kind, int(number), len(plan.encoder))
    else:
        inner = _IN_BLOCK.get((kind, int(number)))
        layer = inner and f"{_block(part, int(block), plan)}.{inner}"
    return layer and f"{part}.{layer}.{'bias' if leaf == 'bias' else 'weight'}"


def _outer(part: str, kind: str, number: int, n_levels: int) -> str | None:
    if kind == "GroupNorm":
        return "norm_out"
    names = ["conv_in", "conv_out"]
    if part == "decoder":
        names[1:1] = [f"up.{level}.upsample_conv" for level in range(n_levels - 1, 0, -1)]
    return names[number] if number < len(names) else None


def _block(part: str, number: int, plan: TokenizerPlan) -> str:
    n, n_levels = plan.options.num_res_blocks, len(plan.encoder)
    if part == "encoder":
        level, j = divmod(number, n)
        return f"down.{level}.block.{j}" if level < n_levels else f"mid.{number - n_levels * n}"
    if number < n:
        return f"mid.{number}"
    level, j = divmod(number - n, n)
    return f"up.{n_levels - 1 - level}.block.{j}"
