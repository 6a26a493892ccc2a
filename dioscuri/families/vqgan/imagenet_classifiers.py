"""ImageNet classifiers whose logits are compared as a perceptual loss (Weber et al. 2024, section 3.1; Yu et
al. 2024): ConvNeXt (Liu et al. 2022) and ResNet (He et al. 2016), with torchvision's names."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dioscuri.checkpoint.tensor_files import read_weights
from dioscuri.errors import UserError
from dioscuri.plans.layout import check_shapes

Shapes = dict[str, tuple[int, ...]]

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's pictures in [0, 1]."""

SIDE = 224
"""Pictures are resized to this side."""


@dataclass(frozen=True)
class Sizes:
    """Channels and blocks of each stage, and the number of classes."""

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    classes: int = 1000


CONVNEXT_SMALL = Sizes((96, 192, 384, 768), (3, 3, 27, 3))
RESNET_50 = Sizes((256, 512, 1024, 2048), (3, 4, 6, 3))
EXPANSION = 4
"""A ResNet's block has a quarter of its channels inside, a ConvNeXt's four times as many."""


def convnext_shapes(sizes: Sizes = CONVNEXT_SMALL) -> Shapes:
    """Parameters of a ConvNeXt."""
    first, last = sizes.widths[0], sizes.widths[-1]
    shapes = _layer("features.0.0", (first, 3, 4, 4)) | _layer("features.0.1", (first,))
    for stage, (width, depth) in enumerate(zip(sizes.widths, sizes.depths, strict=True)):
        if stage:
            before = sizes.widths[stage - 1]
            shapes |= _layer(f"features.{2 * stage}.0", (before,))
            shapes |= _layer(f"features.{2 * stage}.1", (width, before, 2, 2))
        for block in range(depth):
            name = f"features.{2 * stage + 1}.{block}"
            shapes |= _layer(f"{name}.block.0", (width, 1, 7, 7)) | _layer(f"{name}.block.2", (width,))
            shapes |= _layer(f"{name}.block.3", (EXPANSION * width, width))
            shapes |= _layer(f"{name}.block.5", (width, EXPANSION * width))
            shapes[f"{name}.layer_scale"] = (width, 1, 1)
    return shapes | _layer("classifier.0", (last,)) | _layer("classifier.2", (sizes.classes, last))


def resnet_shapes(sizes: Sizes = RESNET_50) -> Shapes:
    """Parameters and running moments of a ResNet of bottleneck blocks."""
    inputs = sizes.widths[0] // EXPANSION
    shapes = {"conv1.weight": (inputs, 3, 7, 7)} | _batch_norm("bn1", inputs)
    for stage, (width, depth) in enumerate(zip(sizes.widths, sizes.depths, strict=True), 1):
        for block in range(depth):
            name, inner = f"layer{stage}.{block}", width // EXPANSION
            kernels = ((inner, inputs, 1, 1), (inner, inner, 3, 3), (width, inner, 1, 1))
            for number, kernel in enumerate(kernels, 1):
                shapes[f"{name}.conv{number}.weight"] = kernel
                shapes |= _batch_norm(f"{name}.bn{number}", kernel[0])
            if not block:
                shapes[f"{name}.downsample.0.weight"] = (width, inputs, 1, 1)
                shapes |= _batch_norm(f"{name}.downsample.1", width)
            inputs = width
    return shapes | _layer("fc", (sizes.classes, inputs))


def read_classifier(option: str, path: str, shapes: Shapes) -> dict[str, np.ndarray]:
    """The classifier's tensors, float32, from a file; a `UserError` begins with the option and names a tensor
    that is missing or has another shape. Others, such as counters, are ignored."""
    try:
        arrays = read_weights(Path(path)).arrays
        arrays = {name: arrays[name] for name in shapes if name in arrays}
        check_shapes(arrays, shapes)
    except UserError as error:
        what = f"[loss] {option}: {path} has not the weights that torchvision publishes"
        raise UserError(f"{what}: {error}") from error
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def _layer(name: str, weight: tuple[int, ...]) -> Shapes:
    return {f"{name}.weight": weight, f"{name}.bias": weight[:1]}


def _batch_norm(name: str, width: int) -> Shapes:
    leaves = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.{leaf}": (width,) for leaf in leaves}
