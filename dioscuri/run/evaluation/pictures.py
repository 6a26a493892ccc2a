"""Pictures to evaluate: a folder of image files, or a `.npy` file of uint8 (N, H, W, C) or (N, H, W)."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from dioscuri.data import image_files
from dioscuri.errors import UserError

Array = np.ndarray
Shape = tuple[int, int, int]

SHEET = "contact-sheet.png"
"""What synthesis writes beside its pictures; it is none of them."""
BATCH = 256


@dataclass(frozen=True)
class PictureFiles:
    """Image files of a folder in the order of their names."""

    path: Path
    files: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.files)

    @property
    def shape(self) -> Shape:
        """(H, W, C) of the first picture."""
        try:
            with image_files.open_image(self.files[0]) as image:
                picture = image_files.flatten(image)
                return picture.height, picture.width, 1 if picture.mode in ("1", "L") else 3
        except image_files.Refused as refused:
            raise UserError(f"{self.files[0]}: {refused}; mend or remove it") from refused

    def batches(self, shape: Shape, *, resize: bool) -> Iterator[Array]:
        """All pictures as uint8 (B, H, W, C), converted to grey or RGB; those of another size are resized
        bilinearly, or a `UserError` names the first of them."""
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for start in range(0, len(self.files), BATCH):
                files = self.files[start : start + BATCH]
                yield np.stack(list(pool.map(lambda file: _decode(file, shape, resize), files)))


@dataclass(frozen=True)
class PictureArray:
    """Pictures uint8 (N, H, W, C) of a file."""

    path: Path
    array: Array

    def __len__(self) -> int:
        return len(self.array)

    @property
    def shape(self) -> Shape:
        _, H, W, C = self.array.shape
        return H, W, C

    def batches(self, shape: Shape, *, resize: bool) -> Iterator[Array]:  # noqa: ARG002 - as of files
        """All pictures as uint8 (B, H, W, C), which must have this shape; grey ones become RGB."""
        if self.shape != shape and self.shape != (*shape[:2], 1):
            raise UserError(f"{self.path}: pictures are {_text(self.shape)}, not {_text(shape)}")
        for start in range(0, len(self.array), BATCH):
            part = self.array[start : start + BATCH]
            yield np.array(np.broadcast_to(part, (len(part), *shape)))


Pictures = PictureFiles | PictureArray


def open_examples(path: Path) -> Pictures | Array:
    """Pictures, or features (N, D) of a `.npy` file; a `UserError` says why there are none."""
    if path.is_dir():
        return _open_folder(path)
    array = read_npy(path)
    if not len(array):
        raise UserError(f"{path}: holds nothing")
    if array.ndim == 2 and array.dtype.kind == "f":
        if not np.isfinite(array).all():
            raise UserError(f"{path}: features are not all finite")
        return array
    if array.ndim in (3, 4) and array.dtype == np.uint8:
        return PictureArray(path, array if array.ndim == 4 else array[..., None])
    raise UserError(
        f"{path}: holds {array.dtype} {array.shape}, neither floating-point features (N, D) nor pictures "
        "uint8 (N, H, W, C)"
    )


def read_npy(path: Path) -> Array:
    """Memory-map a `.npy` file; a `UserError` where it is none."""
    if not path.exists():
        raise UserError(f"{path} does not exist: give a folder of pictures or a .npy file")
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{path}: neither a folder nor a numpy array file ({reason})") from error
    if not isinstance(array, np.ndarray):
        array.close()
        raise UserError(f"{path}: an .npz archive; give a folder of pictures or a .npy file")
    return array


def _open_folder(folder: Path) -> PictureFiles:
    files = sorted(
        file
        for file in folder.iterdir()
        if file.suffix.lower() in image_files.SUFFIXES
        and not file.name.startswith(".")
        and file.name != SHEET
        and file.is_file()
    )
    if not files:
        raise UserError(f"{folder}: holds no pictures; they must lie directly in it")
    return PictureFiles(folder, tuple(files))


def _decode(file: Path, shape: Shape, resize: bool) -> Array:
    H, W, C = shape
    try:
        with image_files.open_image(file) as image:
            picture = image_files.flatten(image).convert("L" if C == 1 else "RGB")
    except image_files.Refused as refused:
        raise UserError(f"{file}: {refused}; mend or remove it") from refused
    if picture.size != (W, H):
        if not resize:
            raise UserError(
                f"{file}: is {picture.height}x{picture.width}, not {H}x{W} as the first picture; only a "
                "classifier, --extractor RUN, resizes"
            )
        picture = picture.resize((W, H), Image.Resampling.BILINEAR)
    return np.asarray(picture).reshape(shape)


def _text(shape: Shape) -> str:
    return "x".join(map(str, shape))
