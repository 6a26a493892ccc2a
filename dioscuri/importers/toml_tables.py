"""Checks of TOML files: unknown keys, values of the wrong kind, missing keys."""

from collections.abc import Callable, Mapping
from math import inf
from typing import Any, NoReturn

from dioscuri.errors import UserError

FLAG, TEXT, COUNT, WHOLE = "true or false", "a text", "a whole number above 0", "a whole number from 0 on"
NUMBER, PAIR = "a number from 0 on", "two whole numbers from 0 on"
FACTORS = "a whole number from 0 on, or a list of these"
DEPTH = "a number of layers, or [before, at, behind] a coarser grid"
LEFT_OUT = ""
"""Kinds of values. Values of ignored keys may be anything."""

FITS: dict[str, Callable[[Any], bool]] = {
    FLAG: lambda value: isinstance(value, bool),
    TEXT: lambda value: isinstance(value, str),
    COUNT: lambda value: FITS[WHOLE](value) and value > 0,
    WHOLE: lambda value: type(value) is int and value >= 0,
    NUMBER: lambda value: type(value) in (int, float) and 0 <= value < inf,
    PAIR: lambda value: isinstance(value, list) and len(value) == 2 and all(map(FITS[WHOLE], value)),
    FACTORS: lambda value: all(map(FITS[WHOLE], value if isinstance(value, list) else [value])),
    DEPTH: lambda value: (
        len(value) == 3 and all(map(FITS[DEPTH], value)) if isinstance(value, list) else FITS[WHOLE](value)
    ),
    LEFT_OUT: lambda _: True,
}

Tables = Mapping[str, Mapping[str, str]]


def check_keys(document: Mapping[str, Any], name: str, tables: Tables) -> None:
    """Raise a `UserError` for an unknown table or key, or a value of the wrong kind."""
    for table, entries in document.items():
        if table == "unroll_steps":
            check_kind(name, table, COUNT, entries)
        elif table not in tables:
            refuse(name, table, "is unknown")
        elif not isinstance(entries, Mapping):
            refuse(name, table, f"must be a table, not {entries!r}")
        else:
            for key, value in entries.items():
                if key not in tables[table]:
                    refuse(name, f"[{table}] {key}", "is unknown")
                check_kind(name, f"[{table}] {key}", tables[table][key], value)


def check_presence(document: Mapping[str, Any], name: str, required: Mapping[str, tuple[str, ...]]) -> None:
    """Raise a `UserError` for a missing table, or a missing key without a default."""
    for table, keys in required.items():
        if table not in document:
            refuse(name, table, "is missing")
        for key in keys:
            if key not in document[table]:
                refuse(name, f"[{table}] {key}", "is missing")


def left_out(document: Mapping[str, Any], tables: Tables) -> dict[str, list[str]]:
    """Keys of a checked file that are not carried over, by table."""
    return {
        table: [key for key in document.get(table, {}) if kinds[key] == LEFT_OUT]
        for table, kinds in tables.items()
    }


def check_kind(name: str, what: str, kind: str, value: Any) -> None:
    """Raise a `UserError` if a value is not of the given kind."""
    if not FITS[kind](value):
        refuse(name, what, f"must be {kind}, not {value!r}")


def refuse(name: str, what: str, why: str) -> NoReturn:
    """Raise a `UserError` about an item of a file."""
    raise UserError(f"{name}: {what} {why}")
