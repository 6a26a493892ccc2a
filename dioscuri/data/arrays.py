"""Pictures in numpy files: ImageNet's npz files and plain npy files, memory-mapped where possible."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from dioscuri.data.descriptors import describe
from dioscuri.data.listing import folder_files
from dioscuri.data.numpy_files import Damaged, read_member, read_npy
from dioscuri.data.options import PATH_OPTIONS, Options, Split, data_path, picture_shape
from dioscuri.data.picture_set import NumberedKeys, PictureSet
from dioscuri.errors import UserError

Array = np.ndarray


class Shards:
    """uint8 arrays whose shapes differ in the first axis only, read as if concatenated."""

    def __init__(self, arrays: Sequence[Array]) -> None:
        self.arrays = arrays
        self.starts = np.cumsum([0, *map(len, arrays)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __call__(self, indices: Array) -> Array:
        """Rows at `indices` (B,) as a new array (B, ...)."""
        rows = np.empty((len(indices), *self.arrays[0].shape[1:]), np.uint8)
        shard = np.searchsorted(self.starts, indices, side="right") - 1
        for number in np.unique(shard):
            in_shard = shard == number
            rows[in_shard] = self.arrays[number][indices[in_shard] - self.starts[number]]
        return rows


def open_imagenet(options: Options, split: Split) -> PictureSet:
    """Open a folder of npz files, sorted by name, whose 'data' is uint8 (N, C*H*W)."""
    folder = data_path(options.data, split)
    paths = folder_files(folder, (".npz",)) if folder.is_dir() else []
    if not paths:
        raise UserError(
            f"[data] {PATH_OPTIONS[split]} '{folder}' holds no .npz file; run "
            "data_scripts/download_and_preprocess.sh imagenet32 (or imagenet64)"
        )
    H, W, C = picture_shape(options.data, describe("imagenet"))
    arrays = [_read_npz_data(path) for path in paths]
    for path, array in zip(paths, arrays, strict=True):
        if array.dtype != np.uint8 or array.ndim != 2 or array.shape[1] != C * H * W:
            raise UserError(
                f"{path}: 'data' is {array.dtype} {array.shape}; "
                f"[data] target_res {H} needs uint8 (N, {C * H * W})"
            )
    rows = Shards([array for array in arrays if len(array)] or arrays[:1])

    def read(indices: Array) -> Array:
        pictures = rows(indices).reshape(len(indices), C, H, W)
        return np.ascontiguousarray(pictures.transpose(0, 2, 3, 1))

    return _numbered_set(f"ImageNet {split}", folder, len(rows), read)


def open_npy(options: Options, split: Split) -> PictureSet:
    """Open a .npy file, or a folder of them sorted by name, of uint8 (N, H, W, C) or (N, H, W)."""
    path = data_path(options.data, split)
    paths = folder_files(path, (".npy",)) if path.is_dir() else [path]
    if not paths:
        raise UserError(f"[data] {PATH_OPTIONS[split]} '{path}' holds no .npy file")
    H, W, C = picture_shape(options.data, describe("npy"))
    arrays = [_read_npy(one, (H, W, C)) for one in paths]
    rows = Shards([array for array in arrays if len(array)] or arrays[:1])
    return _numbered_set(f"npy {split}", path, len(rows), rows)


def _numbered_set(name: str, path: Path, n: int, read: Callable[[Array], Array]) -> PictureSet:
    if not n:
        raise UserError(f"{path}: holds no pictures")
    return PictureSet(name=name, keys=NumberedKeys(range(n)), read=read)


def _read_npy(path: Path, shape: tuple[int, int, int]) -> Array:
    """Memory-map pictures (N, H, W, C); grey ones (N, H, W) get a channel axis."""
    try:
        array = read_npy(path)
    except Damaged as error:
        archive = "; an .npz belongs to dataset_source 'imagenet'" if path.suffix == ".npz" else ""
        raise UserError(f"{path}: not a numpy array file ({error}){archive}") from error
    pictures = array[..., None] if array.ndim == 3 else array
    if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[1:] != shape:
        H, W, C = shape
        raise UserError(
            f"{path}: holds {array.dtype} {array.shape}; [data] target_res and channels need uint8 (N, {H}, "
            f"{W}, {C})"
        )
    return pictures


def _read_npz_data(path: Path) -> Array:
    """Array 'data' of an npz: read into memory if it is compressed, else memory-mapped."""
    try:
        return read_member(path, "data")
    except KeyError as error:
        raise UserError(f"{path}: has no array 'data'; expected a file of downsampled ImageNet") from error
    except Damaged as error:
        raise UserError(f"{path}: not a numpy archive ({error}); download the file again") from error
