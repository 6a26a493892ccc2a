"""Pictures to evaluate: a folder of image files, or uint8 (N, H, W, C) or (N, H, W) in a `.npy` file or in
`arr_0` of an `.npz` file, the usual form of published samples; or clips (N, T, H, W, C) in such a file."""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from dioscuri.data import image_files
from dioscuri.data.listing import folder_files
from dioscuri.data.numpy_files import Damaged, member_names, read_member
from dioscuri.data.numpy_files import read_npy as map_npy
from dioscuri.errors import UserError
from dioscuri.metrics.frechet import Moments, moments_of_covariance
from dioscuri.outputs.drawings import as_pictures

Array = np.ndarray
Shape = tuple[int, int, int]

SHEET = "contact-sheet.png"
"""Files that synthesis writes next to its pictures, and that are not samples."""
BATCH = 256
SAMPLES, MEAN, COVARIANCE = "arr_0", "mu", "sigma"
"""Arrays in `.npz` files, as named by pytorch-fid and guided-diffusion: samples,
and statistics of features."""


@dataclass(frozen=True)
class Pictures(ABC):
    """A set of pictures, resized to `side` x `side` pixels unless that is 0. Clips, of shape `clip` = (T, H,
    W), are frames side by side."""

    path: Path
    side: int = field(default=0, kw_only=True)
    clip: Shape | None = field(default=None, kw_only=True)

    @abstractmethod
    def __len__(self) -> int: ...

    @property
    @abstractmethod
    def channels(self) -> int:
        """Channels of the set: 1 only if every picture is grey."""

    @abstractmethod
    def name(self, index: int) -> str:
        """Name of a picture in messages."""

    @abstractmethod
    def read(self, index: int, channels: int) -> Array:
        """A picture uint8 (H, W, channels) at its stored size, converted
        between grey and RGB if necessary."""

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the first picture."""
        H, W, _ = self.picture(0, 3).shape
        return H, W

    def picture(self, index: int, channels: int) -> Array:
        """A picture uint8 (H, W, channels), resized if `side` is set."""
        picture = self.read(index, channels)
        return resized(picture, (self.side, self.side)) if self.side else picture

    def lists(self, channels: int) -> Iterator[list[Array]]:
        """All pictures in order, in batches of pictures of any size."""
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for start in range(0, len(self), BATCH):
                indices = range(start, min(start + BATCH, len(self)))
                yield list(pool.map(lambda index: self.picture(index, channels), indices))

    def batches(self, shape: Shape, *, resize: bool) -> Iterator[Array]:
        """All pictures as uint8 (B, H, W, C); those of another size are resized bilinearly or, without
        `resize`, a `UserError` names the first."""
        first = 0
        for pictures in self.lists(shape[2]):
            for index, picture in enumerate(pictures, first):
                if picture.shape != shape and not resize:
                    raise UserError(
                        f"{self.name(index)}: is {_text(picture.shape[:2])}, not {_text(shape[:2])} as the "
                        f"first picture; give --resize {shape[0]}, or a network or classifier with "
                        "--extractor, which resizes"
                    )
            first += len(pictures)
            yield np.stack([resized(picture, shape[:2]) for picture in pictures])


@dataclass(frozen=True)
class PictureFiles(Pictures):
    """Image files of a folder in the order of their names."""

    files: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.files)

    @cached_property
    def channels(self) -> int:
        """1 only if every picture is grey."""
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return 1 if all(pool.map(_is_grey, self.files)) else 3

    def name(self, index: int) -> str:
        """The file."""
        return str(self.files[index])

    def read(self, index: int, channels: int) -> Array:
        """See `Pictures`; a `UserError` names a file that cannot be used."""
        with _refusing(self.files[index]), image_files.open_image(self.files[index]) as image:
            if image.format == "GIF" and getattr(image, "n_frames", 1) > 1:
                raise UserError(
                    f"{self.files[index]}: is an animation, not a picture; compare clips as .npy files, "
                    "uint8 (N, T, H, W, C)"
                )
            picture = image_files.as_mode(image_files.flatten(image), channels)
            return np.asarray(picture).reshape(picture.height, picture.width, channels)


@dataclass(frozen=True)
class PictureArray(Pictures):
    """Pictures uint8 (N, H, W, C) of a file."""

    array: Array

    def __len__(self) -> int:
        return len(self.array)

    @property
    def channels(self) -> int:
        """As stored."""
        C: int = self.array.shape[3]
        return C

    def name(self, index: int) -> str:
        """The file, and the picture's index in it."""
        return f"{self.path}, picture {index}"

    def read(self, index: int, channels: int) -> Array:
        """See `Pictures`; only grey pictures are converted."""
        picture = self.array[index]
        if picture.shape[2] not in (1, channels):
            raise UserError(f"{self.path}: pictures have {picture.shape[2]} channels, not {channels}")
        return np.array(np.broadcast_to(picture, (*picture.shape[:2], channels)))


@dataclass(frozen=True)
class Statistics:
    """Mean and covariance of features, instead of examples."""

    path: Path
    moments: Moments


Examples = Pictures | Array | Statistics


def open_examples(path: Path, side: int = 0) -> Examples:
    """Pictures, resized if `side` is set; features (N, D) of a `.npy` file; or statistics of an `.npz` file
    without pictures. A `UserError` says why a file cannot be used."""
    if path.is_dir():
        return _open_folder(path, side)
    if path.suffix == ".npz":
        return _open_archive(path, side)
    array = read_npy(path)
    if array.ndim == 2 and array.dtype.kind == "f":
        if not len(array):
            raise UserError(f"{path}: holds nothing")
        if not np.isfinite(array).all():
            raise UserError(f"{path}: features are not all finite")
        return array
    return _pictures(path, array, side)


def read_statistics(path: Path) -> Moments | None:
    """Statistics of features in an `.npz` file, with or without pictures; None if it has none."""
    if path.suffix != ".npz" or not {MEAN, COVARIANCE} <= set(_names(path)):
        return None
    mean, covariance = (_member(path, name) for name in (MEAN, COVARIANCE))
    if mean.ndim != 1 or covariance.shape != 2 * mean.shape or not mean.size:
        raise UserError(
            f"{path}: {MEAN} is {mean.shape} and {COVARIANCE} {covariance.shape}, not (D,) and (D, D)"
        )
    if {mean.dtype.kind, covariance.dtype.kind} != {"f"}:
        raise UserError(
            f"{path}: {MEAN} and {COVARIANCE} are {mean.dtype} and {covariance.dtype}, not floats"
        )
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise UserError(f"{path}: {MEAN} and {COVARIANCE} are not all finite")
    try:
        return moments_of_covariance(mean, covariance)
    except ValueError as error:
        raise UserError(f"{path}: {COVARIANCE} is not a covariance: {error}") from error


def read_npy(path: Path) -> Array:
    """Memory-map a `.npy` file; a `UserError` if it is not one."""
    if not path.exists():
        raise UserError(f"{path} does not exist: give a folder of pictures, a .npy or an .npz file")
    if not path.is_file():
        raise UserError(f"{path} is neither a regular file nor a folder")
    try:
        return map_npy(path)
    except Damaged as error:
        raise UserError(f"{path}: neither a folder nor a numpy array file ({error})") from error


def resized(picture: Array, size: tuple[int, int]) -> Array:
    """uint8 (H, W, C) at another size (H, W), by Pillow's bilinear filter."""
    if picture.shape[:2] == size:
        return picture
    planes = map(Image.fromarray, np.ascontiguousarray(picture.transpose(2, 0, 1)))
    bilinear = Image.Resampling.BILINEAR
    return np.stack([np.asarray(plane.resize(size[::-1], bilinear)) for plane in planes], -1)


def _open_folder(folder: Path, side: int) -> PictureFiles:
    files = [file for file in folder_files(folder, image_files.SUFFIXES) if file.name != SHEET]
    if not files:
        raise UserError(f"{folder}: holds no pictures; they must lie directly in it")
    return PictureFiles(folder, tuple(files), side=side)


def _open_archive(path: Path, side: int) -> Pictures | Statistics:
    names = _names(path)
    if SAMPLES in names:
        return _pictures(path, _member(path, SAMPLES), side)
    moments = read_statistics(path)
    if moments is None:
        raise UserError(
            f"{path}: has neither pictures '{SAMPLES}' nor statistics '{MEAN}' and '{COVARIANCE}', but "
            f"{', '.join(names) or 'nothing'}"
        )
    return Statistics(path, moments)


def _pictures(path: Path, array: Array, side: int) -> PictureArray:
    if array.ndim not in (3, 4, 5) or array.dtype != np.uint8:
        raise UserError(
            f"{path}: holds {array.dtype} {array.shape}, neither floating-point features (N, D) nor pictures "
            "uint8 (N, H, W, C)"
        )
    if not array.size:
        raise UserError(f"{path}: holds nothing")
    pictures = array[..., None] if array.ndim == 3 else as_pictures(array)
    return PictureArray(path, pictures, side=side, clip=array.shape[1:4] if array.ndim == 5 else None)


def _names(path: Path) -> list[str]:
    if not path.exists():
        raise UserError(f"{path} does not exist: give a folder of pictures, a .npy or an .npz file")
    try:
        return member_names(path)
    except Damaged as error:
        raise UserError(f"{path}: not an .npz archive ({error})") from error


def _member(path: Path, name: str) -> Array:
    try:
        return read_member(path, name)
    except (Damaged, KeyError) as error:
        raise UserError(f"{path}: array '{name}' is damaged ({error}): download or write it again") from error


def _is_grey(file: Path) -> bool:
    with _refusing(file), image_files.open_image(file) as image:
        return image.mode in ("1", "L", "LA", "La")


@contextmanager
def _refusing(file: Path) -> Iterator[None]:
    """Turn `Refused` into a `UserError` that names the file."""
    try:
        yield
    except image_files.Refused as refused:
        raise UserError(f"{file}: {refused}; repair or remove it") from refused


def _text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
