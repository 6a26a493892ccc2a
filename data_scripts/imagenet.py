"""Downsampled ImageNet (Chrabaszcz et al. 2017) from the npz archives of image-net.org.

The site may ask for a login; then download the archives by hand into the downloads folder. No checksum is
known for certain, so the user gives one or accepts the files unverified. Compressed files are stored again
without compression, because only those can be memory-mapped.
"""

from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from data_scripts.extract import unpack
from data_scripts.request import Remote, Request
from dioscuri.data.listing import folder_files
from dioscuri.data.numpy_files import Damaged, member_names, read_member
from dioscuri.errors import UserError

_BASE = "https://image-net.org/data/downsample/"
_ARCHIVES: dict[int, dict[str, tuple[str, ...]]] = {
    32: {"train_data": ("Imagenet32_train_npz.zip",), "val_data": ("Imagenet32_val_npz.zip",)},
    64: {
        "train_data": ("Imagenet64_train_part1_npz.zip", "Imagenet64_train_part2_npz.zip"),
        "val_data": ("Imagenet64_val_npz.zip",),
    },
}


def prepare_imagenet32(request: Request) -> None:
    """Prepare `imagenet_32`/{train_data,val_data}."""
    _prepare(request, 32)


def prepare_imagenet64(request: Request) -> None:
    """Prepare `imagenet_64`/{train_data,val_data}."""
    _prepare(request, 64)


def _prepare(request: Request, resolution: int) -> None:
    archives = _ARCHIVES[resolution]
    fetched = {
        name: request.get(Remote(name=name, url=_BASE + name))
        for names in archives.values()
        for name in names
    }
    with request.building(f"imagenet_{resolution}") as folder:
        for split, names in archives.items():
            (folder / split).mkdir()
            count = sum(unpack(fetched[name], folder / split, _place) for name in names)
            if not count:
                raise UserError(f"{fetched[names[0]]}: holds no .npz file")
            for path in folder_files(folder / split, (".npz",)):
                store_uncompressed(path)


def _place(name: PurePosixPath) -> Path | None:
    return Path(name.name) if name.suffix == ".npz" else None


def store_uncompressed(path: Path) -> None:
    """Rewrite an npz with its arrays 'data' and 'labels' uncompressed; a `UserError` if it has no 'data'."""
    try:
        present = member_names(path)
        arrays: dict[str, Any] = {
            name: read_member(path, name) for name in ("data", "labels") if name in present
        }
        if isinstance(arrays["data"], np.memmap):
            return
    except (KeyError, Damaged) as error:
        raise UserError(f"{path.name}: not a file of downsampled ImageNet ({error})") from error
    temporary = path.with_name(path.name + ".part")
    with temporary.open("wb") as stream:
        np.savez(stream, **arrays)
    temporary.replace(path)
