"""Options of published configurations: their names, and ours as words of the command line."""

from collections.abc import Iterable
from typing import Any

from dioscuri.errors import UserError, did_you_mean


def check_names(given: Iterable[str], known: Iterable[Any]) -> None:
    """Raise a `UserError` for the first option that is not known; names of diffusers' records begin with
    `_`."""
    for name in given:
        if name not in known and not name.startswith("_"):
            raise UserError(f"the configuration's option '{name}' is unknown{did_you_mean(name, known)}")
