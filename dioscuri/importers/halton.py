"""Halton-MaskGIT: converts its transformer's options and weights."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from dioscuri.errors import UserError
from dioscuri.families.maskgit.model_options import Transformer

Arrays = Mapping[str, np.ndarray]


def halton_options(config: Mapping[str, Any]) -> Transformer:
    """Options of Halton-MaskGIT's `Transformer`."""
    return Transformer(
        architecture="halton",
        hidden_size=config["hidden_dim"],
        num_hidden_layers=config["depth"],
        num_attention_heads=config["heads"],
        intermediate_size=config["mlp_dim"],
        hidden_dropout=config["dropout"],
        attention_dropout=config["dropout"],
        num_classes=config["nclass"],
        register=config["register"],
        proj=config["proj"],
    )


def from_halton(arrays: Arrays) -> dict[str, np.ndarray]:
    """Canonical weights, without the output layer's, which is the embedding."""
    tensors = dict(arrays)
    head = tensors.pop("head.weight", None)
    if head is not None and not np.array_equal(head, tensors["tok_emb.weight"]):
        raise UserError("head.weight differs from tok_emb.weight: these are not weights of Halton-MaskGIT")
    return tensors
