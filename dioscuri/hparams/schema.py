"""Typed, frozen option sections: how a family declares its options, and how they are built from raw values.

A section is a frozen keyword-only dataclass whose fields are made with `option`. A field without a default is
required in every `.cfg`; `doc` documents each. `build` checks names, types and ranges, and suggests the
nearest known name for a typo.
"""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from dioscuri.errors import UserError, did_you_mean
from dioscuri.hparams.expressions import shorten
from dioscuri.hparams.reader import DEFAULT, Setting, Settings, fold

T = TypeVar("T")

_WORDS = {int: "a whole number", float: "a number", bool: "True or False", str: "text", type(None): "None"}
LARGEST = 10**12
"""Upper limit of every number without a limit of its own."""
_OFF = (False, 0, "", "none", "off", ())
_PLURALS = {int: "whole numbers", float: "numbers", bool: "True or False", str: "texts"}


def option(
    default: Any = MISSING,
    *,
    doc: str,
    choices: Sequence[Any] | None = None,
    low: float | None = None,
    high: float | None = None,
    path: bool = False,
    alias: Sequence[str] = (),
    needs: tuple[str, Sequence[Any]] | None = None,
) -> Any:
    """Declare an option: a dataclass field with metadata. Without a default it is required.

    `low` and `high` bound every number of the value, even in lists; `high` is at most `LARGEST` by default.
    `path`: relative paths start from the twin's folder in a `.cfg` or as a default, and from the working
    directory on the command line; they become absolute, except ''. `alias`: further names of the option.
    `needs`: another option, of the section or as `section.option`, and its values with which this option is
    used, where () stands for all that are not off; with any other value, this option is refused.
    """
    metadata = {"doc": doc, "choices": choices, "low": low, "high": high, "path": path, "needs": needs}
    return field(default=default, metadata={**metadata, "alias": tuple(alias)})


def build(kind: type[T], settings: Settings, source: str, base: Path) -> T:
    """Build a family's `HParams` from settings. Relative paths of defaults start from `base`.

    A `UserError` names the setting that is unknown, of the wrong type or out of
    range, or what `source` lacks.
    """
    kinds = get_type_hints(kind)
    _check_names(kinds, settings)
    sections = {
        name: _build_section(name, section, settings, source, base) for name, section in kinds.items()
    }
    _check_read(sections, settings)
    return kind(**sections)


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


def _check_names(sections: dict[str, Any], settings: Settings) -> None:
    known = {
        section: {name for declared in fields(kind) for name in names(declared)}
        for section, kind in sections.items()
    }
    known[DEFAULT] = set().union(*known.values())
    for section, options in settings.items():
        for option_name, setting in options.items():
            if section not in known:
                hint = did_you_mean(section, sections)
                raise UserError(f"{setting.source}: section [{setting.section}] is unknown{hint}")
            if option_name not in known[section]:
                hint = _elsewhere(option_name, known) or did_you_mean(option_name, sorted(known[section]))
                raise UserError(f"{setting.where} is unknown{hint}")


def _elsewhere(option_name: str, known: dict[str, set[str]]) -> str:
    places = [f"[{section}]" for section in known if section != DEFAULT and option_name in known[section]]
    return f" (it belongs in {' or '.join(places)})" if places else ""


def _build_section(name: str, kind: type[T], settings: Settings, source: str, base: Path) -> T:
    hints = get_type_hints(kind)
    values, missing = {}, []
    for declared in fields(kind):  # type: ignore[arg-type]
        setting = find(settings, name, declared)
        if setting is not None:
            values[declared.name] = typed(setting, declared, hints[declared.name])
        elif declared.default is MISSING:
            missing.append(declared.name)
        elif declared.metadata["path"]:
            values[declared.name] = _absolute(declared.default, base)
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise UserError(
            f"{source}: [{name}] lacks {', '.join(missing[:3])}{more}: every option needs a value"
        )
    return kind(**values)


@dataclass(frozen=True)
class Unread:
    """An option that differs from its default although the value of `switch` makes it unused."""

    section: str
    declared: Field[Any]
    switch: tuple[str, str]  # section and option
    reason: str


def unread_options(sections: Mapping[str, Any]) -> Iterator[Unread]:
    """Unused options of the built sections."""
    for name, section in sections.items():
        for declared in fields(section):
            if not declared.metadata["needs"] or getattr(section, declared.name) == declared.default:
                continue
            switch, allowed = declared.metadata["needs"]
            place, _, option_name = switch.rpartition(".")
            state = getattr(sections[place or name], option_name)
            if not (state in allowed if allowed else state not in _OFF):
                means = " or ".join(repr(one) for one in allowed) if allowed else "not off"
                reason = f"applies only if {switch} is {means}, but it is {state!r}"
                yield Unread(name, declared, (place or name, option_name), reason)


def _check_read(sections: Mapping[str, Any], settings: Settings) -> None:
    """Raise a `UserError` for an option that is given but unused.

    A file may contain options that other values on the command line, or later calls of [synthesis], would
    use. Options of [DEFAULT] apply to the sections that read them.
    """
    for unread in unread_options(sections):
        setting = find(settings, unread.section, unread.declared)
        if setting is None or setting.recorded or fold(setting.section) == DEFAULT:
            continue
        place, option_name = unread.switch
        switches = [declared for declared in fields(sections[place]) if declared.name == option_name]
        given = find(settings, place, switches[0]) if switches else None
        may_stay = unread.section == "synthesis" or (given is not None and given.on_command_line)
        if setting.on_command_line or not may_stay:
            raise UserError(f"{setting.where} {unread.reason}: leave it out")


def typed(setting: Setting, declared: Field[Any], hint: Any) -> Any:
    """Evaluate a setting and check it against its declaration."""
    raw = setting.text if _is_bare(setting, hint) else setting.value()
    try:
        value = _convert(raw, hint)
    except _Mismatch as mismatch:
        inside = "" if mismatch.value is raw else f", because of {shorten(_quoted(mismatch.value))}"
        hinted = "; put it in quotes" if hint is str else ""
        raise UserError(
            f"{setting.where} must be {_in_words(hint)}, not {shorten(_quoted(raw))}{inside}{hinted}"
        ) from None
    _check_range(value, setting, declared)
    if declared.metadata["path"]:
        paths = (value,) if isinstance(value, str) else value
        if any("\0" in path for path in paths):
            raise UserError(f"{setting.where} is not a path: it contains a null character")
        if not isinstance(value, str) and not all(value):
            raise UserError(f"{setting.where} has an empty path: leave it out")
        absolute = tuple(_absolute(path, setting.start(path)) for path in paths)
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
        matches = any(type(value) is type(part) and value == part for part in parts)
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
    if choices is not None and value not in choices:
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


def _absolute(path: str, base: Path) -> str:
    return os.path.normpath(base / Path(path).expanduser()) if path else ""


def _quoted(value: Any) -> Any:
    return repr(value) if isinstance(value, str) else value


def _in_words(hint: Any) -> str:
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(_in_words(kind) for kind in parts)
    if origin is Literal:
        return " or ".join(repr(kind) for kind in parts)
    if origin is not tuple:
        return _WORDS[hint]
    if parts[-1] is not Ellipsis:
        return f"({', '.join(_in_words(kind) for kind in parts)})"
    return f"a list of {_PLURALS[parts[0]] if parts[0] in _PLURALS else f'({_in_words(parts[0])})'}"
