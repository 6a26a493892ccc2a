"""Checks of the option names in published configurations."""

from collections.abc import Iterable
from typing import Any

from dioscuri.errors import UserError, did_you_mean


def check_names(given: Iterable[str], known: Iterable[Any]) -> None:
    """Raise a `UserError` for the first unknown option; names that begin with
    `_` are records of diffusers."""
    for name in given:
        if name not in known and not name.startswith("_"):
            raise UserError(f"the configuration's option '{name}' is unknown{did_you_mean(name, known)}")
