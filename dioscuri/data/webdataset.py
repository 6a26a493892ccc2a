"""Pictures in tar files as webdataset lays them out: members of an example share a name up to the first dot.

An example has a picture (`jpg`, `jpeg`, `png`, `webp`) and may have a class (`cls`, a whole number in text).
The files of a folder, sorted by name, are one set; only the headers are read at first, so that pictures are
found at random. Compressed tar files are refused: in them they cannot be.
"""

import io
import os
import tarfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dioscuri.data import image_files
from dioscuri.data.options import PATH_OPTIONS, Options, Split, data_path
from dioscuri.data.picture_set import PictureSet
from dioscuri.data.reader import Reader
from dioscuri.errors import UserError

Array = np.ndarray

PICTURES = ("jpg", "jpeg", "png", "webp")
LABEL = "cls"


@dataclass(frozen=True)
class Member:
    """Where a file lies."""

    tar: Path
    start: int
    size: int

    def read(self) -> bytes:
        """Its content; a `UserError` where the tar file is shorter than its headers say."""
        with self.tar.open("rb") as file:
            content = os.pread(file.fileno(), self.size, self.start)
        if len(content) < self.size:
            raise UserError(f"{self.tar} ends within a member: fetch the file again")
        return content


@dataclass(frozen=True)
class Example:
    """The members of an example by their suffix."""

    key: str
    members: dict[str, Member]

    def member(self, suffixes: Sequence[str]) -> Member | None:
        """The first that there is."""
        return next((self.members[suffix] for suffix in suffixes if suffix in self.members), None)


def open_webdataset(options: Options, split: Split) -> PictureSet:
    """Open the tar files of a split's folder, or one; a `UserError` tells why they cannot be used.

    Of a picture the largest square in the middle is taken.
    """
    data, option = options.data, PATH_OPTIONS[split]
    if data.channels not in (1, 3):
        raise UserError(f"[data] channels is {data.channels}; image files give 1 (grey) or 3 (RGB)")
    path = data_path(data, split)
    tars = sorted(path.glob("*.tar")) if path.is_dir() else [path]
    every = [example for tar in tars for example in examples(tar)]
    chosen = [example for example in every if example.member(PICTURES)]
    if not chosen:
        raise UserError(f"[data] {option} '{path}' holds no tar file with pictures ({', '.join(PICTURES)})")
    found = [example.member(PICTURES) for example in chosen]
    pictures = [member for member in found if member]
    H = data.target_res

    def decode(index: int) -> Array:
        content = io.BytesIO(pictures[index].read())
        return image_files.decode(content, H, data.channels, crop=True)

    pool = ThreadPoolExecutor(min(options.run.num_cpus, os.cpu_count() or 1), thread_name_prefix="decode")
    names = [f"{member.tar}: {example.key}" for member, example in zip(pictures, chosen, strict=True)]
    reader = Reader(names, decode, (H, H, data.channels), pool, skip_corrupt=data.skip_corrupt)
    left_out = len(every) - len(chosen)
    return PictureSet(
        name=f"{path.name} ({split})",
        keys=tuple(example.key for example in chosen),
        read=reader,
        labels=_labels(chosen),
        notes=(f"{path}: left out {left_out} examples without a picture",) if left_out else (),
        unreadable=reader.unreadable,
    )


def examples(tar: Path) -> list[Example]:
    """The examples of a tar file, in order; a `UserError` where it is none, or compressed."""
    found: dict[str, dict[str, Member]] = {}
    try:
        with tarfile.open(tar, "r:") as archive:
            for info in archive:
                if info.isfile():
                    key, _, suffix = _split_name(info.name)
                    found.setdefault(key, {})[suffix] = Member(tar, info.offset_data, info.size)
    except (OSError, tarfile.TarError) as error:
        raise UserError(
            f"{tar} cannot be read as a plain tar file ({error}): unpack or fetch it again"
        ) from error
    return [Example(key, members) for key, members in found.items()]


def _split_name(name: str) -> tuple[str, str, str]:
    """(path up to the first dot of the last part, dot, suffix in small letters)."""
    folder, slash, last = name.rpartition("/")
    stem, dot, suffix = last.partition(".")
    return folder + slash + stem, dot, suffix.lower()


def _labels(chosen: Sequence[Example]) -> Array | None:
    """Classes (N,), or None where no example has one; a `UserError` where only some have."""
    members = [example.member((LABEL,)) for example in chosen]
    if not any(members):
        return None
    labels = np.empty(len(chosen), np.int32)
    for index, (example, member) in enumerate(zip(chosen, members, strict=True)):
        text = member.read().decode("ascii", errors="replace").strip() if member else ""
        if not text.isdecimal() or len(text) > 9:
            raise UserError(
                f"example '{example.key}' has class {text[:20]!r}, others have whole numbers: mend its tar "
                "file"
            )
        labels[index] = int(text)
    return labels
