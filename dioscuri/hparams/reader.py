"""Reading and writing `.cfg` files: sections of `key = value`, with the comments above them.

Files are parsed by `configparser` without interpolation, preserving the case of names. Look-up ignores case
and treats every character that is not a letter or digit as `_`: `b-c` is `B_C`. `[DEFAULT]` holds for every
section.
"""

import configparser
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dioscuri.errors import UserError
from dioscuri.hparams.expressions import evaluate

DEFAULT = "default"
"""Folded name of the section that holds for all others."""
COPY = "hparams-"
"""A run's copy of its options is the file `hparams-<run.name>.cfg`."""

_MAX_BYTES = 1_000_000
_COMMENT = ("#", ";")
_HEADER = re.compile(r"\[(?P<name>.+)\]")
_OPTION = re.compile(r"(?P<name>[^=:]{1,200})[=:]")


@dataclass(frozen=True)
class Entry:
    """An option as written. `text` has its lines stripped and joined by newlines."""

    option: str
    text: str
    comments: tuple[str, ...] = ()


@dataclass(frozen=True)
class Section:
    """A section as written."""

    name: str
    entries: tuple[Entry, ...]
    comments: tuple[str, ...] = ()


@dataclass(frozen=True)
class Document:
    """A `.cfg` file; `comments` are those after its last option. `recorded`: see `Setting`."""

    source: str
    sections: tuple[Section, ...]
    comments: tuple[str, ...] = ()
    recorded: bool = False


@dataclass(frozen=True)
class Setting:
    """The text of an option, and where it comes from.

    Relative paths start from `base`, those that begin with a run's folder, `logs-<name>`, from `runs`.
    `recorded`: written by a program, such as a run's copy of its options, so it may be unused.
    """

    section: str
    option: str
    text: str
    source: str
    base: Path
    on_command_line: bool = False
    runs: Path | None = None
    """None: the same as `base`."""
    recorded: bool = False

    @property
    def where(self) -> str:
        """The beginning of an error message about the setting."""
        return f"{self.source}: [{self.section}] {self.option}"

    def start(self, path: str) -> Path:
        """The folder from which a relative path starts."""
        return (self.runs if path.startswith("logs-") else None) or self.base

    def value(self) -> Any:
        """Evaluate the text; the value of an option called `name` is its text."""
        return self.text if fold(self.option) == "name" else evaluate(self.text, self.where)


Settings = dict[str, dict[str, Setting]]
"""Folded section -> folded option -> setting."""


def fold(name: str) -> str:
    """The form in which names of sections and options are compared."""
    return re.sub(r"[^a-z0-9]", "_", name.lower())


def read(path: Path) -> Document:
    """Read a file. A `UserError` if it is missing, is not a `.cfg` text file, or names an option twice."""
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"configuration {path} is not a file")
        if path.stat().st_size > _MAX_BYTES:
            raise UserError(
                f"configuration {path} is larger than {_MAX_BYTES} bytes: it cannot be a .cfg file"
            )
        document = parse(path.read_text(encoding="utf-8-sig"), str(path))
        return replace(document, recorded=path.name.startswith(COPY))
    except UserError:
        raise
    except FileNotFoundError as error:
        shipped = "sweeps/four_families.sweep" if path.suffix == ".sweep" else "vqgan/digits.cfg"
        raise UserError(
            f"configuration {path} does not exist: give a file, or a shipped one such as egs/{shipped}"
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(f"configuration {path} is not text in UTF-8 (byte {error.start})") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"configuration {str(path)!r} cannot be read: {reason}") from error


def parse(text: str, source: str) -> Document:
    """Parse the text of a file; errors name `source`."""
    comments = _comments(text, source)
    parser = configparser.ConfigParser(interpolation=None, default_section="")
    parser.optionxform = str  # type: ignore[assignment,method-assign] # as documented
    try:
        parser.read_string(text, source)
    except configparser.Error as error:
        raise UserError(_reason(error, source)) from None
    sections = tuple(
        Section(
            name,
            tuple(
                Entry(option, value, comments.pop((name, option), ()))
                for option, value in parser[name].items()
            ),
            comments.pop((name, ""), ()),
        )
        for name in parser.sections()
    )
    document = Document(source, sections, comments.pop(("", ""), ()))
    _check_unique(document)
    return document


def render(document: Document) -> str:
    """Text of a document: comments above each option, a blank line after it, continuation lines indented."""
    lines: list[str] = []
    for section in document.sections:
        lines += [*section.comments, f"[{section.name}]", ""]
        for entry in section.entries:
            value = "\n".join(f"    {line}" if line else "" for line in entry.text.split("\n")).lstrip(" ")
            lines += [*entry.comments, f"{entry.option} = {value}".replace("= \n", "=\n").rstrip(), ""]
    return "\n".join([*lines, *document.comments]).rstrip() + "\n"


def settings(document: Document, base: Path, runs: Path | None = None) -> Settings:
    """The document's options, ready to be looked up."""
    return {
        fold(section.name): {
            fold(entry.option): Setting(
                section.name,
                entry.option,
                entry.text,
                document.source,
                base,
                runs=runs,
                recorded=document.recorded,
            )
            for entry in section.entries
        }
        for section in document.sections
    }


def _comments(text: str, source: str) -> dict[tuple[str, str], tuple[str, ...]]:
    """Comment lines above each (section, option); (section, '') is the section
    itself, ('', '') the file's end.

    Comments inside a value of several lines move above the next option. Blank lines between comments stay.
    """
    comments: dict[tuple[str, str], tuple[str, ...]] = {}
    pending: list[str] = []
    for key, comment in _scan(text, source):
        if key is not None:
            comments[key], pending = tuple(pending) if any(pending) else (), []
        elif comment or (pending and pending[-1]):
            pending.append(comment)
    return comments


def _scan(text: str, source: str) -> Iterator[tuple[tuple[str, str] | None, str]]:
    """Walk the lines like configparser: (None, comment or blank line), (key of a header or option, '').

    Any other line raises a `UserError` here, since configparser would take quadratic time over many of them.
    """
    section, option, indent = "", "", 0
    for number, line in enumerate(text.split("\n"), 1):
        content = line.strip()
        depth = len(line) - len(line.lstrip())
        if content.startswith(_COMMENT):
            yield None, content
        elif not content:
            yield None, ""
        elif option and depth > indent:
            continue
        else:
            indent = depth
            header = _HEADER.match(content)
            section = header["name"] if header else section
            named = _OPTION.match(content)
            if section and not header and not named:
                raise UserError(f"{source}, line {number}: this is not 'option = value'")
            option = "" if header or not named else named["name"].rstrip()
            yield (section, option), ""
    yield ("", ""), ""


def _check_unique(document: Document) -> None:
    seen: dict[tuple[str, str], str] = {}
    for section in document.sections:
        for option in ("", *(entry.option for entry in section.entries)):
            key, written = (fold(section.name), fold(option)), f"[{section.name}] {option}".strip()
            if key in seen:
                raise UserError(f"{document.source}: {written} is the same as {seen[key]}: keep one")
            seen[key] = written


def _reason(error: configparser.Error, source: str) -> str:
    match error:
        case configparser.DuplicateOptionError():
            what = f"[{error.section}] {error.option} is there twice: keep one"
        case configparser.DuplicateSectionError():
            what = f"section [{error.section}] is there twice: put its options together"
        case configparser.MissingSectionHeaderError():
            what = "the first option comes before any [section]"
        case _:
            what = " ".join(str(error).split())
    line = getattr(error, "lineno", None)
    return f"{source}, line {line}: {what}" if line else f"{source}: {what}"
