"""Typed, frozen option sections: how a family declares its options, and how a value is checked against them.

A section is a frozen keyword-only dataclass whose fields are made with `option`. A field without a default is
required in every `.cfg`; `doc` documents each.
"""

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, Field, field
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from dioscuri.errors import UserError, did_you_mean, shorten
from dioscuri.hparams.reader import DEFAULT, Setting, Settings
from dioscuri.places import shipped_models

_WORDS = {int: "a whole number", float: "a number", bool: "True or False", str: "text", type(None): "None"}
LARGEST = 10**12
"""Upper limit of every number without a limit of its own."""
_PLURALS = {int: "whole numbers", float: "numbers", bool: "True or False", str: "texts"}


def option(
    default: Any = MISSING,
    *,
    doc: str,
    choices: Sequence[Any] | None = None,
    low: float | None = None,
    high: float | None = None,
    path: bool = False,
    model: bool = False,
    alias: Sequence[str] = (),
    needs: tuple[str, Sequence[Any]] | None = None,
    needs_any: Sequence[tuple[str, Sequence[Any]]] = (),
    twin: str | None = None,
    free: bool = False,
) -> Any:
    """Declare an option: a dataclass field with metadata. Without a default it is required.

    `low` and `high` bound every number of the value, even in lists; `high` is at most `LARGEST` by default.
    `path`: relative paths start from the twin's folder in a `.cfg` or as a default, and from the working
    directory on the command line; they become absolute, except ''. `model`: where nothing is at a path, it
    may be the name of a model shipped with Dioscuri. `alias`: further names of the option.
    `needs`: another option, of the section or as `section.option`, and its values with which this option is
    used, where () stands for all that are not off; with any other value, this option is refused. `needs_any`:
    several of these, one of which must hold. `twin`: the only twin that uses the option. `free`: an existing
    run may change it, whatever its section, because the weights do not depend on it.
    """
    metadata = {"doc": doc, "choices": choices, "low": low, "high": high, "path": path, "twin": twin}
    metadata |= {"model": model, "free": free}
    switches = (needs,) if needs else tuple(needs_any)
    return field(default=default, metadata={**metadata, "alias": tuple(alias), "needs": switches})


def find(settings: Settings, section: str, declared: Field[Any]) -> Setting | None:
    """The setting of an option under any of its names, from the section or else from `[DEFAULT]`."""
    for place in (section, DEFAULT):
        candidates = [settings[place][name] for name in names(declared) if name in settings.get(place, {})]
        overriding = [setting for setting in candidates if setting.on_command_line]
        if len(overriding or candidates) > 1:
            first, second = (overriding or candidates)[:2]
            raise UserError(f"{second.where} and {first.option} are the same option: keep one")
        if candidates:
            return (overriding or candidates)[0]
    return None


def names(declared: Field[Any]) -> tuple[str, ...]:
    """All names of an option, the primary one first."""
    return (declared.name, *declared.metadata["alias"])


def typed(setting: Setting, declared: Field[Any], hint: Any) -> Any:
    """Evaluate a setting and check it against its declaration."""
    raw = setting.text if _is_bare(setting, hint) else setting.value()
    try:
        value = _convert(raw, hint)
    except _Mismatch as mismatch:
        inside = "" if mismatch.value is raw else f", because of {shorten(_quoted(mismatch.value))}"
        hinted = "; put it in quotes" if hint is str else ""
        raise UserError(
            f"{setting.where} must be {in_words(hint)}, not {shorten(_quoted(raw))}{inside}{hinted}"
        ) from None
    _check_range(value, setting, declared)
    if declared.metadata["path"]:
        paths = (value,) if isinstance(value, str) else value
        if any("\0" in path for path in paths):
            raise UserError(f"{setting.where} is not a path: it contains a null character")
        if not isinstance(value, str) and not all(value):
            raise UserError(f"{setting.where} has an empty path: leave it out")
        absolute = tuple(absolute_path(path, setting.start(path)) for path in paths)
        if declared.metadata["model"]:
            absolute = tuple(map(_shipped_or, paths, absolute))
        return absolute[0] if isinstance(value, str) else absolute
    return value


def _is_bare(setting: Setting, hint: Any) -> bool:
    """Whether a text on the command line is unquoted and not a list of texts."""
    if not setting.on_command_line or str not in (hint, *get_args(hint)) or setting.text[:1] in ("'", '"'):
        return False
    if hint is str or setting.text[:1] not in ("[", "("):
        return hint is str or tuple[str, ...] in get_args(hint)
    try:
        _convert(setting.value(), hint)
    except (_Mismatch, UserError):  # a path whose name begins with a bracket
        return True
    return False


class _Mismatch(Exception):
    """A value has the wrong type."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value


def _convert(value: Any, hint: Any) -> Any:
    """Integers are accepted as floats, and lists become tuples; no other type is converted."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return _convert_to_any(value, parts)
    if origin is tuple:
        return _convert_sequence(value, parts)
    if origin is Literal:
        matches = any(type(value) is type(choice) and value == choice for choice in parts)
    elif hint is float:
        matches = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        value = float(value) if matches else value
    elif hint in _WORDS:
        matches = type(value) is hint
    else:
        raise TypeError(f"options of type {hint} are not supported")
    if not matches:
        raise _Mismatch(value)
    return value


def _convert_to_any(value: Any, hints: tuple[Any, ...]) -> Any:
    for hint in hints:
        try:
            return _convert(value, hint)
        except _Mismatch:
            continue
    raise _Mismatch(value)


def _convert_sequence(value: Any, parts: tuple[Any, ...]) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple | range):
        raise _Mismatch(value)
    hints = parts[:1] * len(value) if parts[-1] is Ellipsis else parts
    if len(hints) != len(value):
        raise _Mismatch(value)
    return tuple(_convert(item, hint) for item, hint in zip(value, hints, strict=True))


def _check_range(value: Any, setting: Setting, declared: Field[Any]) -> None:
    choices, low, high = (declared.metadata[key] for key in ("choices", "low", "high"))
    is_schedule = isinstance(value, tuple) and all(isinstance(item, int | float) for item in value)
    if choices is not None and value not in choices and not is_schedule:
        hint = did_you_mean(value, map(str, choices)) if isinstance(value, str) else ""
        known = ", ".join(repr(choice) for choice in choices)
        raise UserError(f"{setting.where} cannot be {shorten(_quoted(value))}{hint}; it is one of {known}")
    for number in _numbers(value):
        least, most = -LARGEST if low is None else low, LARGEST if high is None else high
        bound = f"at least {least}" if number < least else f"at most {most}" if number > most else ""
        if bound:
            raise UserError(f"{setting.where} must be {bound}, not {shorten(str(number))}")


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, tuple):
        for item in value:
            yield from _numbers(item)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value


def absolute_path(path: str, base: Path) -> str:
    """A path that starts from `base`; '' stays."""
    # Unlike Path's, this leaves the name of a user that does not exist.
    return os.path.normpath(base / os.path.expanduser(path)) if path else ""  # noqa: PTH111


def _shipped_or(name: str, path: str) -> str:
    """The path or, if nothing is there, the folder of the shipped model of that name."""
    shipped = shipped_models() / name
    is_name = Path(name).name == name and (shipped / "config.json").is_file()
    return str(shipped) if is_name and not Path(path).exists() else path


def _quoted(value: Any) -> Any:
    return repr(value) if isinstance(value, str) else value


def in_words(hint: Any) -> str:
    """The values of a type, for an error or a table of options."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(in_words(kind) for kind in parts)
    if origin is Literal:
        return " or ".join(repr(kind) for kind in parts)
    if origin is not tuple:
        return _WORDS[hint]
    if parts[-1] is not Ellipsis:
        return f"({', '.join(in_words(kind) for kind in parts)})"
    return f"a list of {_PLURALS[parts[0]] if parts[0] in _PLURALS else f'({in_words(parts[0])})'}"
