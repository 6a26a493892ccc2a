"""Converts Paella's tokenizer as published by open-muse and diffusers (`PaellaVQModel`)."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from dioscuri.errors import UserError, did_you_mean
from dioscuri.families.vqgan.model_options import Tokenizer

Arrays = Mapping[str, np.ndarray]

_EPSILON = 1e-5
"""Of the batch norm after the encoder."""

_DIFFUSERS = {"embed_dim": "c_hidden", "latent_channels": "c_latent", "num_vq_embeddings": "codebook_size"}
_DEFAULTS = {"levels": 2, "bottleneck_blocks": 12, "c_hidden": 384, "c_latent": 4, "codebook_size": 8192}
_FIXED = {"in_channels": 3, "out_channels": 3, "up_down_scale_factor": 2, "scale_factor": None}
"""Options with one supported value. The scale factor applies to vectors that are passed on; tokens do not
depend on it."""

RESOLUTION = 256
"""Side of pictures, which the configurations do not contain."""


def paella_tokenizer(config: Mapping[str, Any]) -> tuple[Tokenizer, dict[str, Any]]:
    """Options of a `PaellaVQModel` and of `[data]`."""
    stated = {_DIFFUSERS.get(key, key): value for key, value in config.items() if not key.startswith("_")}
    for key, value in stated.items():
        if key not in _DEFAULTS and key not in _FIXED:
            raise UserError(f"the configuration's option '{key}' is unknown{did_you_mean(key, _DEFAULTS)}")
        if _FIXED.get(key) not in (None, value):
            raise UserError(f"the configuration's {key} {value} is not supported: it must be {_FIXED[key]}")
    settings = {**_DEFAULTS, **stated}
    levels = settings["levels"]
    model = Tokenizer(
        architecture="paella",
        hidden_channels=settings["c_hidden"] // 2 ** (levels - 1),
        channel_mult=tuple(2**i for i in range(levels)),
        num_res_blocks=settings["bottleneck_blocks"],
        z_channels=settings["c_latent"],
        embedding_dim=settings["c_latent"],
        num_embeddings=settings["codebook_size"],
    )
    return model, {"target_res": RESOLUTION, "channels": 3}


def from_paella(arrays: Arrays) -> dict[str, np.ndarray]:
    """Canonical weights: layers, numbered in order of execution in the files, by level, and the batch norm
    folded into the convolution before it."""
    names = _names(arrays)
    tensors = {}
    for name, array in arrays.items():
        block, _, rest = name.partition(".")
        number, _, leaf = rest.partition(".")
        if f"{block}.{number}" in names:
            leaf = leaf.replace("depthwise.1.", "depthwise.")
            tensors[f"{names[f'{block}.{number}']}.{leaf}"] = array
        else:
            tensors[re.sub(r"^vquantizer\.(codebook|embedding)\.", "quantize.embedding.", name)] = array
    return _without_batch_norm(tensors)


def _names(arrays: Arrays) -> dict[str, str]:
    """Canonical name of every numbered layer."""
    n_down, n_up = (
        1 + max(int(match[1]) for name in arrays if (match := re.match(rf"{side}_blocks\.(\d+)\.", name)))
        for side in ("down", "up")
    )
    levels = n_down // 2
    names = {"in_block.1": "encoder.conv_in", "out_block.0": "decoder.conv_out"}
    for i in range(levels):
        names[f"down_blocks.{2 * i}"] = f"encoder.down.{i}.blocks.0"
        if i:
            names[f"down_blocks.{2 * i - 1}"] = f"encoder.down.{i}.resample"
    coarsest = n_up - 1 - 2 * (levels - 1)
    order = [f"decoder.up.{levels - 1}.blocks.{j}" for j in range(coarsest)]
    for i in range(levels - 1, 0, -1):
        order += [f"decoder.up.{i}.resample", f"decoder.up.{i - 1}.blocks.0"]
    return names | {f"up_blocks.{1 + k}": name for k, name in enumerate(order)}


def _without_batch_norm(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Fold the batch norm into the encoder's last layer, and rename the decoder's first one."""
    last = max((name.rpartition(".1.")[0] for name in arrays if name.endswith(".1.running_var")), default="")
    if not last:
        raise UserError("there is no running_var: these are not weights of PaellaVQModel")
    norm = {
        leaf: arrays.pop(f"{last}.1.{leaf}") for leaf in ("weight", "bias", "running_mean", "running_var")
    }
    arrays.pop(f"{last}.1.num_batches_tracked", None)
    factor = norm["weight"] / np.sqrt(norm["running_var"] + _EPSILON)
    arrays["encoder.conv_out.weight"] = arrays.pop(f"{last}.0.weight") * factor[:, None, None, None]
    arrays["encoder.conv_out.bias"] = norm["bias"] - norm["running_mean"] * factor
    for leaf in ("weight", "bias"):
        arrays[f"decoder.conv_in.{leaf}"] = arrays.pop(f"up_blocks.0.0.{leaf}")
    return arrays
