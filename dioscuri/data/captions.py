"""Captions of pictures, from a text file, JSON lines or webdataset tar files."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from dioscuri.data.annotations import is_unicode, tar_annotations
from dioscuri.data.facts import AESTHETIC, number, original_size
from dioscuri.data.listing import folder_files
from dioscuri.data.tar_files import examples
from dioscuri.errors import UserError

N_MICRO = 5
_LARGEST = 1e30


@dataclass(frozen=True)
class Caption:
    """A text and, if known, the five numbers of micro-conditioning: original width and height, top and left
    of the crop, aesthetic score (SDXL, Podell et al. 2023, section 2.2). `left_out` further texts of the
    picture are not read."""

    text: str
    micro: tuple[float, ...] | None = None
    left_out: int = 0


def read_captions(path: Path, resolution: int = 0) -> dict[str, Caption]:
    """Captions by picture key; a `UserError` names what is wrong.

    `path` is a text file with one caption per line, whose key is the line number, from 0; a `.jsonl` file
    with `key`, `caption` and optionally `micro` on each line; a tar file; or a folder of tar files. In a tar
    file, a picture's first caption is read, from the members that `annotations` names. If `resolution`, the
    side to which pictures are resized and centre-cropped, is given, the `json` also provides the
    micro-conditioning, provided it is complete.
    """
    if path.is_dir():
        tars = folder_files(path, (".tar",))
        if not tars:
            raise UserError(f"captions: folder {path} holds no tar file")
        return _by_key((pair for tar in tars for pair in _of_tar(tar, resolution).items()), path)
    if path.exists() and not path.is_file():
        raise UserError(f"captions {path} is neither a regular file nor a folder")
    try:
        if path.suffix == ".tar":
            return _of_tar(path, resolution)
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"captions {path} cannot be read ({error}): give UTF-8 text or tar files") from error
    if path.suffix != ".jsonl":
        return {str(number): Caption(line.strip()) for number, line in enumerate(lines)}
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    return _by_key((_of_line(line, f"captions {path}, line {number}") for number, line in numbered), path)


def _by_key(pairs: Iterable[tuple[str, Caption]], path: Path) -> dict[str, Caption]:
    captions: dict[str, Caption] = {}
    for key, caption in pairs:
        if captions.setdefault(key, caption) != caption:
            raise UserError(f"captions {path}: '{key}' has two captions: remove one")
    return captions


def _of_line(line: str, where: str) -> tuple[str, Caption]:
    try:
        fields: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON ({error})") from error
    fields = fields if isinstance(fields, dict) else {}
    key, text, micro = (fields.get(name) for name in ("key", "caption", "micro"))
    if not isinstance(key, str) or not isinstance(text, str):
        raise UserError(f'{where}: needs strings "key" and "caption"')
    if not is_unicode(key + text):
        raise UserError(f"{where}: holds half of a surrogate pair: write it again as UTF-8")
    if micro is None:
        return key, Caption(text)
    if not isinstance(micro, list) or len(micro) != N_MICRO or not all(map(_is_number, micro)):
        raise UserError(f'{where}: "micro" must be {N_MICRO} numbers: width, height, top, left, score')
    return key, Caption(text, tuple(map(float, micro)))


def _of_tar(tar: Path, resolution: int) -> dict[str, Caption]:
    every = examples(tar)
    return {
        example.key: Caption(
            annotation.captions[0], _micro(annotation.facts, resolution), len(annotation.captions) - 1
        )
        for example, annotation in zip(every, tar_annotations(every), strict=True)
        if annotation.captions
    }


def _micro(facts: Mapping[str, Any], resolution: int) -> tuple[float, ...] | None:
    """Width and height, top and left of the crop after resizing, score; None unless all are known."""
    size, score = original_size(facts), number(facts, AESTHETIC)
    if not resolution or size is None or score is None:
        return None
    factor = resolution / min(size)
    left, top = (float((round(side * factor) - resolution) // 2) for side in size)
    return *size, top, left, score


def _is_number(value: Any) -> TypeGuard[float]:
    """Whether a value is a number in the range of a float."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST
