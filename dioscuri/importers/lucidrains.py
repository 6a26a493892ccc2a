"""muse-maskgit-pytorch: converts its transformer's options and weights."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from dioscuri.errors import UserError
from dioscuri.families.maskgit.model_options import Transformer

Arrays = Mapping[str, np.ndarray]

UNUSED = re.compile(r"(^|\.)beta$|^(critic\.)?norm\.")
"""Buffers of zeros, and an unused second norm."""


def lucidrains_options(config: Mapping[str, Any], text_width: int, critic: str = "none") -> Transformer:
    """Options of muse-maskgit-pytorch's `MaskGitTransformer`; `text_width` is that of its text encoder."""
    return Transformer(
        architecture="lucidrains",
        hidden_size=config["dim"],
        num_hidden_layers=config["depth"],
        num_attention_heads=config.get("heads", 8),
        head_dim=config.get("dim_head", 64),
        intermediate_size=config.get("ff_mult", 4) * config["dim"],
        encoder_hidden_size=text_width,
        self_cond=config.get("self_cond", False),
        critic=critic,
    )


def from_lucidrains(arrays: Arrays, *, self_cond: bool = False) -> dict[str, np.ndarray]:
    """Network and token critic without unused tensors: zero biases of norms, a second final norm and, without
    self-conditioning, its layers."""
    renamed = {_lucidrains_name(name): array for name, array in arrays.items()}
    for name, array in renamed.items():
        if name.endswith(".beta") and array.any():
            raise UserError(f"'{name}' is not zero: these are not weights of muse-maskgit-pytorch")
    unused = ("critic.self_cond",) if self_cond else ("critic.self_cond", "self_cond")
    return {
        name: array
        for name, array in renamed.items()
        if not UNUSED.search(name) and not name.startswith(unused)
    }


def _lucidrains_name(name: str) -> str:
    return re.sub("^token_critic", "critic", name.removeprefix("transformer."))
