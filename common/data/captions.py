"""Captions of pictures, from a text file, JSON lines or webdataset tar files."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.data.webdataset import examples
from common.errors import UserError

MEMBERS = ("text", "txt", "caption")
N_MICRO = 5


@dataclass(frozen=True)
class Caption:
    """A text and, where they are known, the five numbers of micro-conditioning: original width and height,
    crop's top and left, aesthetic score (SDXL, Podell et al. 2023, section 2.2)."""

    text: str
    micro: tuple[float, ...] | None = None


def read_captions(path: Path) -> dict[str, Caption]:
    """Captions by the key of their picture; a `UserError` names what is wrong.

    `path` is a text file with a caption a line, whose keys are the numbers of the lines from 0; a `.jsonl`
    file with `key`, `caption` and perhaps `micro` a line; a tar file; or a folder of tar files.
    """
    if path.is_dir():
        tars = sorted(path.glob("*.tar"))
        if not tars:
            raise UserError(f"captions: folder {path} holds no tar file")
        return {key: caption for tar in tars for key, caption in _of_tar(tar).items()}
    try:
        if path.suffix == ".tar":
            return _of_tar(path)
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"captions {path} cannot be read ({error}): give UTF-8 text or tar files") from error
    if path.suffix != ".jsonl":
        return {str(number): Caption(line.strip()) for number, line in enumerate(lines)}
    captions: dict[str, Caption] = {}
    for number, line in enumerate(lines, 1):
        if line.strip():
            key, caption = _of_line(line, f"captions {path}, line {number}")
            captions[key] = caption
    return captions


def _of_line(line: str, where: str) -> tuple[str, Caption]:
    try:
        found: Any = json.loads(line)
    except ValueError as error:
        raise UserError(f"{where}: no JSON ({error})") from error
    found = found if isinstance(found, dict) else {}
    key, text, micro = (found.get(name) for name in ("key", "caption", "micro"))
    if not isinstance(key, str) or not isinstance(text, str):
        raise UserError(f'{where}: needs a text "key" and a text "caption"')
    if micro is None:
        return key, Caption(text)
    if not isinstance(micro, list) or len(micro) != N_MICRO or not all(map(_is_number, micro)):
        raise UserError(f'{where}: "micro" must be {N_MICRO} numbers: width, height, top, left, score')
    return key, Caption(text, tuple(map(float, micro)))


def _of_tar(tar: Path) -> dict[str, Caption]:
    captions: dict[str, Caption] = {}
    for example in examples(tar):
        if member := example.member(MEMBERS):
            try:
                captions[example.key] = Caption(member.read().decode().strip())
            except UnicodeDecodeError as error:
                raise UserError(f"{tar}: the caption of '{example.key}' is no UTF-8 text") from error
    return captions


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
