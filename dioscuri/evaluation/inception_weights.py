"""Weights of the Inception network of FID, from the file that torch-fidelity and pytorch-fid publish."""

from pathlib import Path

import numpy as np

from dioscuri.checkpoint.tensor_files import read_weights
from dioscuri.download import fetch
from dioscuri.errors import UserError
from dioscuri.hub import cache_folder
from dioscuri.metrics.inception import EPSILON, convolutions, weight_shapes
from dioscuri.plans.layout import check_shapes

URL = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
    "weights-inception-2015-12-05-6726825d.pth"
)
CHECKSUM = "sha256:6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"


def inception_file() -> Path:
    """The published file in the local cache, downloaded and verified if it is missing."""
    return fetch(URL, cache_folder() / URL.rpartition("/")[2], CHECKSUM)


def read_inception(file: Path) -> dict[str, np.ndarray]:
    """Tensors of `dioscuri.metrics.inception.weight_shapes`, float32; a `UserError` names what is missing."""
    arrays = read_weights(file).arrays
    folded: dict[str, np.ndarray] = {}
    try:
        for conv in convolutions():
            folded |= _folded(arrays, conv.name)
        folded["fc.weight"] = arrays["fc.weight"]
        check_shapes(folded, weight_shapes())
    except UserError as error:
        raise UserError(f"{file} holds no weights of FID's Inception network: {error}") from error
    except (KeyError, ValueError) as error:
        raise UserError(f"{file} holds no weights of FID's Inception network: {error} is missing") from error
    return {name: np.ascontiguousarray(array, np.float32) for name, array in folded.items()}


def _folded(arrays: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """Kernel and bias of a convolution with the batch norm after it folded in."""
    norm = {leaf: arrays[f"{name}.bn.{leaf}"] for leaf in ("weight", "bias", "running_mean", "running_var")}
    scale = norm["weight"].astype(np.float64) / np.sqrt(norm["running_var"].astype(np.float64) + EPSILON)
    return {
        f"{name}.weight": arrays[f"{name}.conv.weight"] * scale[:, None, None, None],
        f"{name}.bias": norm["bias"] - norm["running_mean"] * scale,
    }
