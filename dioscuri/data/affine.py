"""Random affine maps of training pictures: they are turned, scaled, sheared and shifted about their middle.

Beyond its edges a picture goes on as its mirror image. Values in between are bicubic. The numbers drawn
depend only on the seed and the position in the training stream.
"""

from collections.abc import Sequence
from concurrent.futures import Executor

import numpy as np
from PIL import Image

from dioscuri.data.randomness import words
from dioscuri.hparams.random_maps import RandomMaps

Array = np.ndarray

_REACH = 2  # pixels that bicubic interpolation reads around a point


def is_on(options: RandomMaps) -> bool:
    """Whether any map is other than the identity."""
    amounts = (
        options.random_rotation,
        options.random_scale,
        options.random_shear,
        options.random_translation,
    )
    return any(amounts)


def randomly_mapped(
    pictures: Array, *, options: RandomMaps, seed: int, positions: Array, pool: Executor
) -> Array:
    """Map each of uint8 (B, H, W, C), or all frames of each of (B, F, H, W, C), by a map of its own."""
    H, W = pictures.shape[-3:-1]
    maps = _random_maps(options, seed, positions, H, W)
    return np.stack(list(pool.map(_mapped, pictures, maps)))


def _random_maps(options: RandomMaps, seed: int, positions: Array, H: int, W: int) -> Array:
    """(B, 2, 3): for a place (x, y) in the new picture, in pixels from its upper left corner, that in the
    old one."""
    bits = words(seed, "affine", positions, 6) >> np.uint64(11)
    angle, wide, high, slant, right, down = 2 * (bits * 2.0**-53).T - 1  # each in [-1, 1)
    angle = np.deg2rad(options.random_rotation * angle)
    slant = np.tan(np.deg2rad(options.random_shear * slant))
    wide, high = 1 + options.random_scale * wide, 1 + options.random_scale * high
    cos, sin = np.cos(angle), np.sin(angle)
    forth = np.empty((len(angle), 2, 2))
    forth[:, 0, 0], forth[:, 0, 1] = cos * wide, (cos * slant - sin) * high
    forth[:, 1, 0], forth[:, 1, 1] = sin * wide, (sin * slant + cos) * high
    back = np.linalg.inv(forth)
    middle = np.array([W / 2, H / 2])
    shift = options.random_translation * np.stack([W * right, H * down], axis=-1)
    offset = middle - np.einsum("bij,bj->bi", back, middle + shift)
    return np.concatenate([back, offset[..., None]], axis=-1)


def _mapped(picture: Array, back: Array) -> Array:
    """`picture` (..., H, W, C) at the places that `back` (2, 3) gives for those of the result."""
    H, W = picture.shape[-3:-1]
    corners = back @ np.array([[0, W, 0, W], [0, 0, H, H], [1, 1, 1, 1]])
    margin = int(np.ceil(max((-corners).max(), (corners.max(axis=1) - [W, H]).max(), 0))) + _REACH
    inner = back.copy()
    inner[:, 2] += margin
    planes = np.moveaxis(picture, -1, 0).reshape(-1, H, W)
    padded = np.pad(planes, ((0, 0), (margin, margin), (margin, margin)), mode="symmetric")
    made = np.stack([_transformed(plane, (W, H), inner.ravel().tolist()) for plane in padded])
    return np.ascontiguousarray(np.moveaxis(made.reshape(picture.shape[-1], *picture.shape[:-1]), 0, -1))


def _transformed(plane: Array, size: tuple[int, int], numbers: Sequence[float]) -> Array:
    image = Image.fromarray(plane)
    return np.asarray(image.transform(size, Image.Transform.AFFINE, numbers, Image.Resampling.BICUBIC))
