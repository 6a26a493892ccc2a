"""LlamaGen's tokenizer, which Halton-MaskGIT uses: converts its weights."""

import re
from collections.abc import Mapping

import numpy as np


def from_llamagen(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Canonical weights. The network is that of taming-transformers under other names, its levels in order of
    execution; the record of used codes is dropped."""
    n_levels = len({name.split(".")[2] for name in arrays if name.startswith("decoder.conv_blocks.")})
    return {
        _llamagen_name(name, n_levels): array
        for name, array in arrays.items()
        if name != "quantize.codebook_used"
    }


def _llamagen_name(name: str, n_levels: int) -> str:
    if match := re.match(r"(encoder|decoder)\.conv_blocks\.(\d+)\.(res|attn)?", name):
        level = int(match[2]) if match[1] == "encoder" else n_levels - 1 - int(match[2])
        module = {"res": "block", "attn": "attn", None: ""}[match[3]]
        side = "down" if match[1] == "encoder" else "up"
        return f"{match[1]}.{side}.{level}.{module}{name[match.end() :]}"
    parts = {"0": "block_1", "1": "attn_1", "2": "block_2"}
    return re.sub(r"\.mid\.([012])\.", lambda match: f".mid.{parts[match[1]]}.", name)
