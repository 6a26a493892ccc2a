"""Options given as Python values, with the checks of a `.cfg`: name, type and range."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar, get_type_hints

from dioscuri.errors import UserError, did_you_mean, kind_of
from dioscuri.hparams.reader import Setting
from dioscuri.hparams.schema import names, typed
from dioscuri.hparams.unread import unused_in_call
from dioscuri.inputs import check_names, to_plain

OptionsT = TypeVar("OptionsT")
ARGUMENTS = ("batch_size", "classes", "noise", "seed", "temperature", "texts")
"""Arguments of calls that are no options, which a misspelt one may mean."""


def with_options(
    options: OptionsT, given: Mapping[str, Any], allowed: Sequence[str], call: str, section: str = "synthesis"
) -> OptionsT:
    """A copy of a section's options, updated with those given to a call.

    A `UserError` names the call and the option that is unknown, of the wrong type, out of range, or
    incompatible with others.
    """
    check_names(given, allowed, f"{call}: option", ARGUMENTS)
    hints = get_type_hints(type(options))
    declared = {field.name: field for field in fields(options)}  # type: ignore[arg-type] # a dataclass
    values = {
        name: typed(setting(section, name, value, call), declared[name], hints[name])
        for name, value in given.items()
    }
    try:
        return replace(options, **values)  # type: ignore[type-var] # a dataclass
    except UserError as error:
        raise UserError(f"{call}: {error}") from error


def options_of_call(
    hparams: Any,
    given: Mapping[str, Any],
    allowed: Sequence[str],
    call: str,
    usual: Mapping[str, Any] = MappingProxyType({}),
) -> Any:
    """The options of `[synthesis]`, updated with the call's usual ones and those given to it; a `UserError`
    as from `with_options`, and for an option given that nothing uses."""
    chosen = with_options(hparams.synthesis, {**usual, **given}, allowed, call)
    for declared in fields(chosen):
        reason = unused_in_call(replace(hparams, synthesis=chosen), declared)
        if declared.name in given and reason:
            raise UserError(f"{call}: [synthesis] {declared.name} {reason}: leave it out")
    return chosen


def setting(section: str, option: str, value: Any, source: str) -> Setting:
    """The setting of a `.cfg` for this value; paths are relative to the working directory."""
    where = f"{source}: [{section}] {option}"
    text = str(value) if option == "name" else repr(_plain(value, where))
    return Setting(section, option, text, source, Path.cwd())


def settings_of(sections: Mapping[str, Any], given: Mapping[str, Any], source: str) -> list[Setting]:
    """Settings from keywords: `option=`, `section__option=` if several sections have the option, or
    `section={option: value}`. `sections` maps a section's name to its dataclass of options."""
    settings: list[Setting] = []
    known = {
        section: {name for declared in fields(kind) for name in names(declared)}
        for section, kind in sections.items()
    }
    for keyword, value in given.items():
        section, joined, option = keyword.partition("__")
        if keyword in known and isinstance(value, Mapping):
            settings += [_checked(known, keyword, name, item, source) for name, item in value.items()]
        elif joined and section in known:
            settings.append(_checked(known, section, option, value, source))
        else:
            settings.append(setting(_place(known, keyword, source), keyword, value, source))
    return settings


def check_types(sections: Mapping[str, Any], given: Iterable[Setting]) -> None:
    """Raise a `UserError` for the first setting of the wrong type or out of range."""
    for item in given:
        kind = sections[item.section]
        declared = next(field for field in fields(kind) if item.option in names(field))
        typed(item, declared, get_type_hints(kind)[declared.name])


def _checked(known: Mapping[str, set[str]], section: str, option: str, value: Any, source: str) -> Setting:
    if option not in known[section]:
        hint = did_you_mean(str(option), sorted(known[section]))
        raise UserError(f"{source}: [{section}] {option} is unknown{hint}")
    return setting(section, option, value, source)


def _place(known: Mapping[str, set[str]], option: str, source: str) -> str:
    """The section of an option; a `UserError` if none or several have it."""
    places = [section for section, options in known.items() if option in options]
    if not places:
        hint = did_you_mean(option, sorted(set().union(*known.values())))
        raise UserError(f"{source}: option '{option}' is unknown{hint}")
    if len(places) > 1:
        words = " or ".join(f"{section}__{option}" for section in places)
        raise UserError(f"{source}: option '{option}' is in several sections: write {words}")
    return places[0]


def _plain(value: Any, where: str) -> Any:
    """A value that a `.cfg` can hold: numbers, booleans, strings, None, and lists of these."""
    value = to_plain(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, list | tuple):
        return [_plain(item, where) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise UserError(f"{where} cannot be {kind_of(value)}: give a number, a string, or a list of these")


def sampling_names(*kinds: Any) -> tuple[str, ...]:
    """Names of all options of these dataclasses."""
    return tuple(dict.fromkeys(option.name for kind in kinds for option in fields(kind)))
