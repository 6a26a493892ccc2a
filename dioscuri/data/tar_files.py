"""Plain tar files in the layout of webdataset: where the members of each example lie.

Only the headers are read, so members can be read in any order. Compressed tar files are refused because they
do not allow this. A file without the end marker of a tar file has lost members and is refused.
"""

import os
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from dioscuri.errors import UserError

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Member:
    """Where a file lies."""

    tar: Path
    start: int
    size: int

    def read(self) -> bytes:
        """Its content; a `UserError` if the tar file is shorter than its headers say."""
        with self.tar.open("rb") as file:
            content = os.pread(file.fileno(), self.size, self.start)
        if len(content) < self.size:
            raise UserError(f"{self.tar} ends within a member: download the file again")
        return content


@dataclass(frozen=True)
class Example:
    """The members of an example by their suffix."""

    key: str
    members: dict[str, Member]

    def member(self, suffixes: Sequence[str]) -> Member | None:
        """The member with the first of the suffixes that exists."""
        return next((self.members[suffix] for suffix in suffixes if suffix in self.members), None)


def examples(tar: Path) -> list[Example]:
    """The examples of a tar file, in order, without hidden members; a `UserError` if it is not a tar file, is
    compressed, truncated or damaged, or has two members of the same name."""
    by_key: dict[str, dict[str, Member]] = {}
    try:
        for name, member in _members(tar):
            key, suffix = _split_name(name)
            members = by_key.setdefault(key, {})
            if suffix in members:
                raise UserError(f"{tar} has two members '{name}': write the file again")
            members[suffix] = member
    except UserError:
        raise
    except Exception as error:  # tarfile raises all kinds of exceptions on foreign bytes
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(
            f"{tar} cannot be read as a plain tar file ({reason}): unpack or download it again"
        ) from error
    return [Example(key, members) for key, members in by_key.items()]


def _members(tar: Path) -> Iterator[tuple[str, Member]]:
    """Names and places of the files in a tar file."""
    size = tar.stat().st_size
    with tarfile.open(tar, "r:") as archive:
        for info in archive:
            if info.size < 0 or info.offset_data + info.size > size:
                raise UserError(
                    f"{tar} ends within '{info.name}', or its header is damaged: download it again"
                )
            if info.islnk() or info.issym() or info.sparse is not None:
                kind = "sparse" if info.sparse is not None else "a link"
                raise UserError(f"{tar}: '{info.name}' is {kind}, not a regular file: write the file again")
            parts = PurePosixPath(info.name).parts
            if info.isfile() and not any(step.startswith(".") and step != ".." for step in parts):
                yield info.name, Member(tar, info.offset_data, info.size)
        _check_end(tar, archive.offset)


def _check_end(tar: Path, end: int) -> None:
    """Raise a `UserError` unless the zero block that ends a tar file begins at
    `end` and only zeros follow."""
    with tar.open("rb") as file:
        file.seek(end)
        block = file.read(tarfile.BLOCKSIZE)
        if block != bytes(tarfile.BLOCKSIZE):
            state = f"is damaged at byte {end}" if len(block) == tarfile.BLOCKSIZE else "is cut short"
            raise UserError(f"{tar} {state}: members are missing; download it again")
        while content := file.read(_CHUNK):
            if content.strip(b"\0"):
                raise UserError(
                    f"{tar} continues after its end, like concatenated tar files: unpack it, or join the "
                    "files with tar --concatenate"
                )


def _split_name(name: str) -> tuple[str, str]:
    """(path up to the first dot of the file name, suffix in lower case)."""
    folder, slash, last = name.rpartition("/")
    stem, _, suffix = last.partition(".")
    return folder + slash + stem, suffix.lower()
