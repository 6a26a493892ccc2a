"""Weights of LPIPS from the files published by its authors and torchvision."""

import re
from pathlib import Path

import numpy as np

from dioscuri.checkpoint.tensor_files import read_weights
from dioscuri.errors import UserError
from dioscuri.families.vqgan.lpips import weight_shapes
from dioscuri.plans.layout import check_shapes

_LINEAR = re.compile(r"lin(\d)\.(?:model\.1\.)?weight")
_FEATURES = re.compile(r"(?:features|net\.slice\d)\.(\d+\.(?:weight|bias))")


def read_lpips(lpips_path: str, vgg_path: str = "") -> dict[str, np.ndarray]:
    """Tensors of `dioscuri.families.vqgan.lpips.weight_shapes`, float32, from one file or from two.

    Known names are `lin<k>.model.1.weight` and, for VGG16, `features.<i>.*` or `net.slice<k>.<i>.*`. Others,
    such as VGG16's classifier, are ignored. A `UserError` names a missing tensor.
    """
    arrays: dict[str, np.ndarray] = {}
    for path in filter(None, (vgg_path, lpips_path)):
        for name, array in _read(Path(path)).items():
            if linear := _LINEAR.fullmatch(name):
                arrays[f"lin{linear[1]}.weight"] = array.reshape(-1)
            elif features := _FEATURES.fullmatch(name):
                arrays[f"features.{features[1]}"] = array
    try:
        check_shapes(arrays, weight_shapes())
    except UserError as error:
        files = " and ".join(filter(None, (lpips_path, vgg_path)))
        raise UserError(f"[loss] lpips_path, vgg_path: {files} are not weights of LPIPS: {error}") from error
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        return read_weights(path).arrays
    except UserError as error:
        raise UserError(f"[loss] weights of LPIPS: {error}") from error
