"""Layers of the Inception network that defines FID: Inception-v3 (Szegedy et al. 2015) in TensorFlow's graph
of 2015-12-05, whose average pools exclude padding and whose last block uses a maximum pool.

A layer is a convolution, a pool, a sequence (tuple), or a fork, whose branches are concatenated.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np

SIDE, FEATURES, CLASSES = 299, 2048, 1008
EPSILON = 1e-3
"""Of the batch norms after the convolutions."""


@dataclass(frozen=True)
class Conv:
    """Convolution and ReLU; `padding` zeros on each side of the two axes."""

    name: str
    inputs: int
    outputs: int
    kernel: tuple[int, int]
    stride: int
    padding: tuple[int, int]


@dataclass(frozen=True)
class Pool:
    """3x3 pool: stride 2 without padding, or stride 1 with one pixel of padding."""

    kind: str  # max, mean
    stride: int


@dataclass(frozen=True)
class Fork:
    """Branches with the same input."""

    branches: tuple["Layer", ...]


Layer = Conv | Pool | Fork | tuple["Layer", ...]

_ONE, _THREE = (1, 1), (3, 3)
_BLOCKS = (
    ("5b", 192, "A", 32),
    ("5c", 256, "A", 64),
    ("5d", 288, "A", 64),
    ("6a", 288, "B", 0),
    ("6b", 768, "C", 128),
    ("6c", 768, "C", 160),
    ("6d", 768, "C", 160),
    ("6e", 768, "C", 192),
    ("7a", 768, "D", 0),
    ("7b", 1280, "E", 0),
    ("7c", 2048, "E", 1),
)
"""Name, input channels, kind, and the number in which blocks of a kind differ."""


@cache
def layers() -> tuple[Layer, ...]:
    """The network up to the mean over the grid: (B, 299, 299, 3) -> (B, 8, 8, 2048)."""
    stem: tuple[Layer, ...] = (
        Conv("Conv2d_1a_3x3", 3, 32, _THREE, 2, (0, 0)),
        Conv("Conv2d_2a_3x3", 32, 32, _THREE, 1, (0, 0)),
        Conv("Conv2d_2b_3x3", 32, 64, _THREE, 1, (1, 1)),
        Pool("max", 2),
        Conv("Conv2d_3b_1x1", 64, 80, _ONE, 1, (0, 0)),
        Conv("Conv2d_4a_3x3", 80, 192, _THREE, 1, (0, 0)),
        Pool("max", 2),
    )
    return stem + tuple(_block(*block) for block in _BLOCKS)


def convolutions() -> list[Conv]:
    """All convolutions, in order."""
    return _convolutions(layers())


def weight_shapes() -> dict[str, tuple[int, ...]]:
    """Shape of every tensor; batch norms are folded into the convolutions before them."""
    shapes: dict[str, tuple[int, ...]] = {}
    for conv in convolutions():
        shapes[f"{conv.name}.weight"] = (conv.outputs, conv.inputs, *conv.kernel)
        shapes[f"{conv.name}.bias"] = (conv.outputs,)
    return {**shapes, "fc.weight": (CLASSES, FEATURES)}


def resizing(inputs: int, outputs: int = SIDE) -> np.ndarray:
    """Weights (outputs, inputs) of TensorFlow 1's bilinear resizing of an axis: output pixel i samples the
    input at i * inputs / outputs, counted from the centre of its first pixel."""
    places = np.arange(outputs, dtype=np.float32) * np.float32(inputs / outputs)
    low = np.floor(places).astype(np.int64)
    fraction = places - low
    weights = np.zeros((outputs, inputs), np.float32)
    np.add.at(weights, (np.arange(outputs), low), 1 - fraction)
    np.add.at(weights, (np.arange(outputs), np.minimum(low + 1, inputs - 1)), fraction)
    return weights


def _convolutions(layer: Layer) -> list[Conv]:
    if isinstance(layer, Conv):
        return [layer]
    if isinstance(layer, Pool):
        return []
    parts = layer.branches if isinstance(layer, Fork) else layer
    return [conv for inner in parts for conv in _convolutions(inner)]


def _block(name: str, inputs: int, kind: str, number: int) -> Fork:
    return _KINDS[kind](f"Mixed_{name}", inputs, number)


def _chain(name: str, inputs: int, *stages: tuple[str, int, tuple[int, int], int]) -> tuple[Conv, ...]:
    """A sequence of convolutions (suffix, outputs, kernel, stride); those of stride 2 have no padding."""
    chain: list[Conv] = []
    for suffix, outputs, kernel, stride in stages:
        padding = (kernel[0] // 2, kernel[1] // 2) if stride == 1 else (0, 0)
        chain.append(Conv(f"{name}{suffix}", inputs, outputs, kernel, stride, padding))
        inputs = outputs
    return tuple(chain)


def _a(name: str, inputs: int, pooled: int) -> Fork:
    return Fork(
        (
            _chain(f"{name}.branch1x1", inputs, ("", 64, _ONE, 1)),
            _chain(f"{name}.branch5x5", inputs, ("_1", 48, _ONE, 1), ("_2", 64, (5, 5), 1)),
            _chain(
                f"{name}.branch3x3dbl",
                inputs,
                ("_1", 64, _ONE, 1),
                ("_2", 96, _THREE, 1),
                ("_3", 96, _THREE, 1),
            ),
            (Pool("mean", 1), *_chain(f"{name}.branch_pool", inputs, ("", pooled, _ONE, 1))),
        )
    )


def _b(name: str, inputs: int, _number: int) -> Fork:
    return Fork(
        (
            _chain(f"{name}.branch3x3", inputs, ("", 384, _THREE, 2)),
            _chain(
                f"{name}.branch3x3dbl",
                inputs,
                ("_1", 64, _ONE, 1),
                ("_2", 96, _THREE, 1),
                ("_3", 96, _THREE, 2),
            ),
            Pool("max", 2),
        )
    )


def _c(name: str, inputs: int, width: int) -> Fork:
    row, column = (1, 7), (7, 1)
    return Fork(
        (
            _chain(f"{name}.branch1x1", inputs, ("", 192, _ONE, 1)),
            _chain(
                f"{name}.branch7x7",
                inputs,
                ("_1", width, _ONE, 1),
                ("_2", width, row, 1),
                ("_3", 192, column, 1),
            ),
            _chain(
                f"{name}.branch7x7dbl",
                inputs,
                ("_1", width, _ONE, 1),
                ("_2", width, column, 1),
                ("_3", width, row, 1),
                ("_4", width, column, 1),
                ("_5", 192, row, 1),
            ),
            (Pool("mean", 1), *_chain(f"{name}.branch_pool", inputs, ("", 192, _ONE, 1))),
        )
    )


def _d(name: str, inputs: int, _number: int) -> Fork:
    return Fork(
        (
            _chain(f"{name}.branch3x3", inputs, ("_1", 192, _ONE, 1), ("_2", 320, _THREE, 2)),
            _chain(
                f"{name}.branch7x7x3",
                inputs,
                ("_1", 192, _ONE, 1),
                ("_2", 192, (1, 7), 1),
                ("_3", 192, (7, 1), 1),
                ("_4", 192, _THREE, 2),
            ),
            Pool("max", 2),
        )
    )


def _e(name: str, inputs: int, last: int) -> Fork:
    def halves(branch: str, number: int) -> Fork:
        row, column = (
            (f"_{number}{letter}", 384, kernel, 1) for letter, kernel in (("a", (1, 3)), ("b", (3, 1)))
        )
        return Fork((_chain(branch, 384, row), _chain(branch, 384, column)))

    three, double = f"{name}.branch3x3", f"{name}.branch3x3dbl"
    return Fork(
        (
            _chain(f"{name}.branch1x1", inputs, ("", 320, _ONE, 1)),
            (*_chain(three, inputs, ("_1", 384, _ONE, 1)), halves(three, 2)),
            (*_chain(double, inputs, ("_1", 448, _ONE, 1), ("_2", 384, _THREE, 1)), halves(double, 3)),
            (Pool("max" if last else "mean", 1), *_chain(f"{name}.branch_pool", inputs, ("", 192, _ONE, 1))),
        )
    )


_KINDS = {"A": _a, "B": _b, "C": _c, "D": _d, "E": _e}
