"""`report.json`: the numbers of a folder by name."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dioscuri.context import Context
from dioscuri.files import finite, write_json


def write_report(context: Context, folder: Path, results: Mapping[str, Any]) -> None:
    """Write `report.json` in a folder. Numbers that are not finite become null,
    and a printed line names them."""
    if not context.writes:
        return
    write_json(folder / "report.json", results)
    if names := list(_not_finite(results)):
        context.say(f"not finite, so null in {folder / 'report.json'}: {', '.join(names)}")


def _not_finite(results: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in results.items():
        if isinstance(value, Mapping):
            yield from _not_finite(value, f"{prefix}{name}.")
        elif finite(value) != (list(value) if isinstance(value, tuple) else value):
            yield f"{prefix}{name}"
