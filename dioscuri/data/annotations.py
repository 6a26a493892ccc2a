"""What is told about pictures beside their pixels: captions, sizes and scores, from files next to them.

Picture `a.jpg` has its captions in `a.txt`, one on each line, or in `metadata.jsonl`, in its folder or in the
one that the user names: there `file_name` is its path, `text` or `caption` a text or a list of texts. Further
facts are in that line or in `a.json`.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dioscuri.data.tar_files import Example
from dioscuri.errors import UserError, kind_of
from dioscuri.files import plain_bytes

LISTED = "metadata.jsonl"
SIDECARS = (".txt", ".json")
MEMBERS = ("text", "txt", "caption")
"""Suffixes of the text members of tar files."""
TEXT_NAMES = ("text", "caption")


@dataclass(frozen=True)
class Annotation:
    """The captions of a picture, none if nobody wrote any, and other facts by the names of the data set."""

    captions: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


def folder_annotations(paths: Sequence[Path], folder: Path) -> list[Annotation]:
    """The annotations of picture files; a `UserError` names the file, and its line, that cannot be used."""
    lines: dict[str, dict[str, Any]] = {}
    for parent in sorted({folder, *(path.parent for path in paths)}):
        if (parent / LISTED).exists():
            listed = _listed(parent / LISTED)
            if twice := sorted(lines.keys() & listed.keys()):
                raise UserError(f"{parent / LISTED}: '{twice[0]}' has a line in another {LISTED} already")
            lines |= listed
    return [_of_file(path, lines.get(_plain(path), {})) for path in paths]


def tar_annotations(chosen: Sequence[Example]) -> list[Annotation]:
    """The annotations of a tar file's examples: their `txt`, `json`, and COCO's `annotations` in that."""
    return [_of_example(example) for example in chosen]


def _of_example(example: Example) -> Annotation:
    text, described = example.member(MEMBERS), example.member(("json",))
    facts: dict[str, Any] = {}
    captions: tuple[str, ...] = ()
    if described is not None:
        where = f"{described.tar}: '{example.key}.json'"
        facts = json_object(described.read(), where)
        if text is None:
            captions = captions_in(facts, where) or captions_in({"text": _coco(facts, where)}, where)
    if text is not None:
        captions = captions_of_lines(text.read(), f"{text.tar}: the caption of '{example.key}'")
    return Annotation(captions, facts)


def _coco(facts: Mapping[str, Any], where: str) -> list[Any]:
    """The captions of COCO's annotations, which may be JSON in a text."""
    notes = facts.get("annotations", [])
    if isinstance(notes, str):
        notes = json_object(f'{{"annotations": {notes}}}', where)["annotations"]
    notes = notes if isinstance(notes, list) else []
    return [note["caption"] for note in notes if isinstance(note, dict) and note.get("caption") is not None]


def captions_in(fields: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """The captions of a JSON object; a `UserError` that begins with `where` if they are no texts."""
    given = next((fields[name] for name in TEXT_NAMES if fields.get(name) is not None), ())
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        raise UserError(f'{where}: "text" or "caption" must be a text or a list of texts')
    if not all(is_unicode(text) for text in texts):
        raise UserError(f"{where}: the caption holds half of a surrogate pair: write it again as UTF-8")
    return tuple(text.strip() for text in texts)


def is_unicode(text: str) -> bool:
    """Whether a text has no half of a surrogate pair, which JSON and command lines may bring."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def captions_of_lines(content: bytes, where: str) -> tuple[str, ...]:
    """The captions of a text file, one on each line that is not blank; an empty file is one empty caption."""
    try:
        lines = content.decode("utf-8-sig").replace("\r\n", "\n").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{where} is not UTF-8 text (byte {error.start}): save it as UTF-8") from error
    return tuple(line.strip() for line in lines if line.strip()) or ("",)


def json_object(content: bytes | str, where: str) -> dict[str, Any]:
    """An object of a data set's JSON; a `UserError` if it is none."""
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON ({error})") from error
    if not isinstance(fields, dict):
        raise UserError(f"{where}: must be a JSON object, as {{...}}, not {kind_of(fields)}")
    return fields


def _of_file(path: Path, line: Mapping[str, Any]) -> Annotation:
    beside = {suffix: path.with_suffix(suffix) for suffix in SIDECARS}
    facts = {}
    if beside[".json"].is_file():
        facts = json_object(_content(beside[".json"]), str(beside[".json"]))
    captions = captions_in(line, f"{LISTED}, {path.name}")
    if not captions and beside[".txt"].is_file():
        captions = captions_of_lines(_content(beside[".txt"]), str(beside[".txt"]))
    return Annotation(captions or captions_in(facts, str(beside[".json"])), facts | dict(line))


def _listed(file: Path) -> dict[str, dict[str, Any]]:
    """The lines of a metadata.jsonl by the paths of their pictures."""
    lines: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(_content(file).split(b"\n"), 1):
        if not line.strip():
            continue
        where = f"{file}, line {number}"
        fields = json_object(line, where)
        name = fields.get("file_name")
        if not isinstance(name, str) or not name or "\0" in name:
            raise UserError(f'{where}: needs "file_name", the path of a picture from this folder')
        path = _plain(file.parent / name)
        if not Path(path).is_file():
            raise UserError(f"{where}: '{name}' does not exist: correct or remove the line")
        if path in lines:
            raise UserError(f"{where}: '{name}' has a line already: write its captions as a list")
        captions_in(fields, where)
        lines[path] = fields
    return lines


def _plain(path: Path) -> str:
    """An absolute path without `..`, which follows no links."""
    return os.path.normpath(path.absolute())


def _content(path: Path) -> bytes:
    try:
        return plain_bytes(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
