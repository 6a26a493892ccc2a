"""CelebA, CelebA-HQ and FFHQ as flat folders of pictures.

Scripts cannot download from the owners' pages, so put the archives into the downloads folder by hand, or
fetch them from a copy with --base-url. Checksums are known for CelebA only.
"""

import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import IO

from PIL import Image

from data_scripts.extract import members, reading, unpack
from data_scripts.random_split import choose, move
from data_scripts.request import Remote, Request
from dioscuri.data.image_files import SUFFIXES
from dioscuri.errors import UserError

CELEBA_PAGE = "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"
CELEBA_PICTURES = Remote(
    name="img_align_celeba.zip", checksum="md5:00d2c5bc6d35e252742224ab0c1e8fcb", page=CELEBA_PAGE
)
CELEBA_PARTITION = Remote(
    name="list_eval_partition.txt", checksum="md5:d32c9cbf5e040fd4025c592c306e6668", page=CELEBA_PAGE
)
CELEBA_CROP = (15, 40, 163, 188)  # left, upper, right, lower: 148x148 around the face
CELEBA_SPLITS = ("train_data", "val_data", "synthesis_data")  # partitions 0, 1, 2

_AT_ONCE = 256  # pictures in memory
_MAX_PICTURE = 1 << 24


def prepare_celeba(request: Request) -> None:
    """Crop the aligned faces to 148x148 and split them by the official partition, into `celebA`."""
    partition = read_partition(request.get(CELEBA_PARTITION))
    archive = request.get(CELEBA_PICTURES)
    with (
        request.building("celebA") as folder,
        ThreadPoolExecutor(os.cpu_count()) as pool,
        reading(archive),
    ):
        for split in CELEBA_SPLITS:
            (folder / split).mkdir()
        pictures = (
            (name, _content(archive, name, size, stream))
            for name, size, stream in members(archive)
            if name.name in partition
        )
        n_pictures = 0
        while group := list(islice(pictures, _AT_ONCE)):
            targets = [folder / CELEBA_SPLITS[partition[name.name]] / f"{name.stem}.png" for name, _ in group]
            list(pool.map(_crop, [data for _, data in group], targets))
            n_pictures += len(group)
        if n_pictures != len(partition):
            raise UserError(
                f"{archive}: holds {n_pictures} of the {len(partition)} pictures in {CELEBA_PARTITION.name}"
            )


def _content(archive: Path, name: PurePosixPath, size: int, stream: IO[bytes]) -> bytes:
    if size > _MAX_PICTURE:
        raise UserError(f"{archive}: '{name}' has {size} bytes, so it is not a picture of this set")
    return stream.read()


def read_partition(path: Path) -> dict[str, int]:
    """Map picture names to 0 (training), 1 (validation) or 2 (test)."""
    partition = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        name, _, split = line.strip().partition(" ")
        if split not in ("0", "1", "2"):
            raise UserError(f"{path}, line {number}: expected '<picture> <0, 1 or 2>'")
        partition[name] = int(split)
    return partition


def _crop(data: bytes, target: Path) -> None:
    try:
        with Image.open(BytesIO(data), formats=("JPEG", "PNG")) as image:
            image.convert("RGB").crop(CELEBA_CROP).save(target)
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{target.stem}: not a readable picture ({error})") from error


@dataclass(frozen=True, kw_only=True)
class Published:
    """A set of faces, its publisher's page, and the names of its archives."""

    folder: str
    archive: str
    page: str
    names: re.Pattern[str]
    n_validation: int


_ARCHIVE = r"[^.]*\.(zip|tar|tar\.gz|tgz)"
CELEBAHQ = Published(
    folder="celebAHQ",
    archive="celebahq.zip",
    page="https://github.com/tkarras/progressive_growing_of_gans",
    names=re.compile(rf"(.*celeb\w*[-_ ]?hq|data\d+x\d+){_ARCHIVE}", re.IGNORECASE),
    n_validation=3000,
)
FFHQ = Published(
    folder="ffhq",
    archive="ffhq.zip",
    page="https://github.com/NVlabs/ffhq-dataset",
    names=re.compile(rf"(.*ffhq|(images|thumbnails)\d+x\d+){_ARCHIVE}", re.IGNORECASE),
    n_validation=7000,
)


def prepare_celebahq(request: Request) -> None:
    """Unpack the pictures of an archive into `celebAHQ`, 3,000 of them for validation."""
    _prepare_flat(request, CELEBAHQ)


def prepare_ffhq(request: Request) -> None:
    """Unpack the pictures of an archive into `ffhq`, 7,000 of them for validation."""
    _prepare_flat(request, FFHQ)


def _prepare_flat(request: Request, published: Published) -> None:
    archive = request.get(Remote(name=_archive(request, published), page=published.page))
    n_validation = published.n_validation if request.validation is None else request.validation
    with request.building(published.folder) as folder:
        train, validation = folder / "train_data", folder / "val_data"
        train.mkdir()
        if not unpack(archive, train, _place):
            raise UserError(f"{archive}: holds no pictures")
        move(choose(train, n_validation), validation)


def _archive(request: Request, published: Published) -> str:
    """The archive that the user names, or the only matching one in the downloads folder."""
    if request.archive or request.base_url:
        return request.archive or published.archive
    files = request.downloads.iterdir() if request.downloads.is_dir() else ()
    names = sorted(path.name for path in files if published.names.fullmatch(path.name) and path.is_file())
    if len(names) > 1:
        raise UserError(f"{request.downloads} holds {', '.join(names)}: choose one with --archive NAME")
    return names[0] if names else published.archive


def _place(name: PurePosixPath) -> Path | None:
    hidden = name.name.startswith(".")
    return Path(name.name) if name.suffix.lower() in SUFFIXES and not hidden else None
