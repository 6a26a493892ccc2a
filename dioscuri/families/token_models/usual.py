"""Default options of new token models."""

from collections.abc import Mapping
from typing import Any

from dioscuri.face.usual import Values


def of_tokens(given: Values) -> dict[str, Mapping[str, Any]]:
    """Default data options of a new model: 16x16 tokens of 1,024 codes, 16 pixels per token side, unless a
    tokenizer or the caller says otherwise, for instance by a `sequence_length` without a grid."""
    data, classes = given["data"], given.get("model", {}).get("num_classes", 0)
    grid = data.get("grid", 0 if data.get("sequence_length") else 16)
    shape = {} if "grid" in data or not grid else {"target_res": 16 * grid}
    codes = data.get("codebook_size", 1024)
    tokens = {"dataset_source": "tokens", "grid": grid, "codebook_size": codes, "labels": bool(classes)}
    return {"data": {**tokens, **shape}, "synthesis": {"synthesis_mode": "generation"}}
