"""The one exception for a user's mistake.

Command lines catch it, print its message as one line and exit with code 2; anything else is a defect of the
program and keeps its traceback.
"""

import sys
from collections.abc import Callable, Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """A mistake the user can mend. The message is one line: what is wrong, where, and what to do."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `" (did you mean 'x'?)"` for the nearest known name, or an empty string when none is near."""
    near = get_close_matches(word, list(known), n=1)
    return f" (did you mean '{near[0]}'?)" if near else ""


def run_command(main: Callable[[list[str]], None], arguments: list[str] | None = None) -> None:
    """Run a command-line entry point: a `UserError` becomes one line on stderr and exit code 2."""
    try:
        main(sys.argv[1:] if arguments is None else arguments)
    except UserError as error:
        print(f"error: {_one_line(str(error))}", file=sys.stderr)
        sys.exit(2)


def _one_line(text: str) -> str:
    """What cannot be printed, such as a newline in the name of a file, as Python writes it in a string."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text
    )
