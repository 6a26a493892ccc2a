"""Frozen networks of the perceptual loss: LPIPS, and ImageNet classifiers. The loss is their mean distance,
weighted by the options of `[loss]`."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from dioscuri.families.vqgan import lpips
from dioscuri.families.vqgan.imagenet_classifiers import (
    Shapes,
    convnext_shapes,
    read_classifier,
    resnet_shapes,
)
from dioscuri.families.vqgan.lpips_weights import read_lpips
from dioscuri.families.vqgan.options import Loss

LPIPS = "LPIPS"
CLASSIFIERS = {"convnext": convnext_shapes, "resnet": resnet_shapes}


def shares(loss: Loss) -> dict[str, float]:
    """The networks whose weights are given, with their shares, which add up to 1."""
    weights = {name: getattr(loss, f"{name}_weight") for name in ("lpips", *CLASSIFIERS)}
    weights = {name: weight for name, weight in weights.items() if getattr(loss, f"{name}_path") and weight}
    return {name: weight / sum(weights.values()) for name, weight in weights.items()}


def distance_name(loss: Loss) -> str:
    """What the mean distance is called in reports."""
    return "perceptual" if _classifiers(loss) else LPIPS


def _classifiers(loss: Loss) -> list[str]:
    return [name for name in shares(loss) if name in CLASSIFIERS]


def perceptual_shapes(loss: Loss) -> Shapes:
    """Shapes of their tensors: those of LPIPS, those of a classifier after its name and a dot."""
    shapes = dict(lpips.weight_shapes()) if "lpips" in shares(loss) else {}
    for name in _classifiers(loss):
        shapes |= {f"{name}.{tensor}": shape for tensor, shape in CLASSIFIERS[name]().items()}
    return shapes


def read_perceptual(loss: Loss) -> dict[str, np.ndarray]:
    """These tensors from the files of the options; a `UserError` names one that does not fit."""
    arrays = read_lpips(loss.lpips_path, loss.vgg_path) if "lpips" in shares(loss) else {}
    for name in _classifiers(loss):
        option = f"{name}_path"
        read = read_classifier(option, getattr(loss, option), CLASSIFIERS[name]())
        arrays |= {f"{name}.{tensor}": array for tensor, array in read.items()}
    return arrays


def tensors_of(name: str, tensors: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors of one network under its own names."""
    if name == "lpips":
        return {key: tensor for key, tensor in tensors.items() if key.partition(".")[0] not in CLASSIFIERS}
    prefix = f"{name}."
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
