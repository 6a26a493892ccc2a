"""Builds a family's options from raw settings. Names, types and ranges are checked; the message about a typo
suggests the nearest name."""

from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from dioscuri.errors import UserError, did_you_mean
from dioscuri.hparams.reader import DEFAULT, Settings
from dioscuri.hparams.schema import absolute_path, find, names, typed
from dioscuri.hparams.unread import check_read

T = TypeVar("T")


def build(kind: type[T], settings: Settings, source: str, base: Path) -> T:
    """Build a family's `HParams` from settings. Relative paths of defaults start from `base`.

    A `UserError` names the setting that is unknown, of the wrong type or out of
    range, or what `source` lacks.
    """
    kinds = get_type_hints(kind)
    _check_names(kinds, settings)
    hparams = kind(
        **{name: _build_section(name, section, settings, source, base) for name, section in kinds.items()}
    )
    check_read(hparams, settings)
    return hparams


def _check_names(sections: dict[str, Any], settings: Settings) -> None:
    known = {
        section: {name for declared in fields(kind) for name in names(declared)}
        for section, kind in sections.items()
    }
    known[DEFAULT] = set().union(*known.values())
    for section, options in settings.items():
        for option_name, setting in options.items():
            if section not in known:
                hint = did_you_mean(section, sections) or f": this family has {', '.join(sections)}"
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
    for declared in fields(kind):  # type: ignore[arg-type] # a dataclass
        setting = find(settings, name, declared)
        if setting is not None:
            values[declared.name] = typed(setting, declared, hints[declared.name])
        elif declared.default is MISSING:
            missing.append(declared.name)
        elif declared.metadata["path"]:
            values[declared.name] = absolute_path(declared.default, base)
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise UserError(
            f"{source}: [{name}] lacks {', '.join(missing[:3])}{more}: every option needs a value"
        )
    return kind(**values)
