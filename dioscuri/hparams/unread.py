"""Options that are given although nothing uses them: they are refused, since they would change nothing."""

from collections.abc import Iterator, Sequence
from dataclasses import Field, dataclass, fields
from typing import Any

from dioscuri.errors import UserError
from dioscuri.hparams.picture_files import EMBEDDED
from dioscuri.hparams.reader import DEFAULT, Setting, Settings, fold
from dioscuri.hparams.schema import find, names

_OFF = (False, 0, "", "none", "off", ())


@dataclass(frozen=True)
class Unread:
    """An option that differs from its default although nothing uses it."""

    section: str
    declared: Field[Any]
    reason: str
    switches: tuple[tuple[str, str], ...] = ()
    """(section, option) of the options whose values make it unused."""


def unread_options(hparams: Any) -> Iterator[Unread]:
    """Options that `HParams.unread` lists as `section.option`, and options of which no switch that `needs`
    names is on."""
    lacking = getattr(hparams, "unread", ())
    for section, declared, value in _options(hparams):
        if value == declared.default:
            continue
        if f"{section}.{declared.name}" in lacking:
            yield Unread(section, declared, f"is not used by this model of family '{hparams.run.family}'")
        needs = declared.metadata["needs"]
        places = tuple(_place(section, switch) for switch, _ in needs)
        states = [getattr(getattr(hparams, place), name) for place, name in places]
        if needs and not any(_is_on(state, on) for state, (_, on) in zip(states, needs, strict=True)):
            yield Unread(section, declared, _reason(needs, states), places)


def unused_in_call(hparams: Any, declared: Field[Any]) -> str:
    """Why an option of [synthesis], not of its default value, is unused by a call in Python; '' if it is
    used, or used by some modes alone: a call is none."""
    needs = declared.metadata["needs"]
    places = [_place("synthesis", switch) for switch, _ in needs]
    value, mode = getattr(hparams.synthesis, declared.name), ("synthesis", "synthesis_mode")
    if not needs or value == declared.default or mode in places:
        return ""
    states = [getattr(getattr(hparams, place), name) for place, name in places]
    used = any(_is_on(state, on) for state, (_, on) in zip(states, needs, strict=True))
    return "" if used else _reason(needs, states)


def check_read(hparams: Any, settings: Settings) -> None:
    """Raise a `UserError` for an option that is given but unused.

    A file may contain options that other values on the command line, or later calls of [synthesis], would
    use. Options of [DEFAULT] apply to the sections that read them.
    """
    declarations = {(section, declared.name): declared for section, declared, _ in _options(hparams)}
    for unread in unread_options(hparams):
        setting = find(settings, unread.section, unread.declared)
        if setting is None or setting.recorded or fold(setting.section) == DEFAULT:
            continue
        given = [find(settings, switch[0], declarations[switch]) for switch in unread.switches]
        may_stay = unread.section == "synthesis" or any(one and one.on_command_line for one in given)
        if setting.on_command_line or not may_stay:
            raise UserError(f"{setting.where} {unread.reason}: leave it out")
    data = getattr(hparams, "data", None)  # the table of a sweep has no data
    if getattr(data, "dataset_source", "") in EMBEDDED:
        _check_paths(data, settings)


def _check_paths(data: Any, settings: Settings) -> None:
    """Raise a `UserError` for a path given to a source without files: the run would not train on what is
    there. A `.cfg` may contain paths of other sources."""
    for declared in fields(data):
        setting = find(settings, "data", declared) if declared.name.endswith("_data_path") else None
        if setting and setting.on_command_line and not setting.recorded and getattr(data, declared.name):
            raise UserError(
                f"{setting.where} is not read by dataset_source '{data.dataset_source}', whose examples come "
                "with a package: leave it out, or train on your own with data.dataset_source=custom"
            )


def check_twin(hparams: Any, given: Sequence[Setting], twin: str) -> None:
    """Raise a `UserError` for an option of the other twin alone in `given`, settings of a command line or of
    Python. A `.cfg` may contain options of both twins."""
    for section, declared, value in _options(hparams):
        only = declared.metadata["twin"]
        setting = next(
            (one for one in given if one.section == section and one.option in names(declared)), None
        )
        if setting and only not in (None, twin) and value != declared.default:
            raise UserError(
                f"{setting.where} applies only to the twin '{only}', not to '{twin}': leave it out"
            )


def _options(hparams: Any) -> Iterator[tuple[str, Field[Any], Any]]:
    """(section, declaration, value) of every option."""
    for section in fields(hparams):
        options = getattr(hparams, section.name)
        yield from ((section.name, declared, getattr(options, declared.name)) for declared in fields(options))


def _place(section: str, switch: str) -> tuple[str, str]:
    """Section and option of a switch that `needs` names."""
    place, _, name = switch.rpartition(".")
    return place or section, name


def _is_on(state: Any, on: Sequence[Any]) -> bool:
    return state in on if on else state not in _OFF


def _reason(needs: Sequence[tuple[str, Sequence[Any]]], states: Sequence[Any]) -> str:
    means = [f"{switch} is {' or '.join(map(repr, on)) if on else 'not off'}" for switch, on in needs]
    but = f", but it is {states[0]!r}" if len(states) == 1 else ""
    return f"applies only if {', or '.join(means)}{but}"
