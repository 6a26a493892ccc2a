"""The one exception for a user's mistake.

Command lines catch it, print its message as one line and exit with code 2; anything else is a defect of the
program and keeps its traceback.
"""

import errno
import os
import select
import signal
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from difflib import get_close_matches
from typing import NoReturn


class UserError(ValueError):
    """A mistake that the user can fix. The message is one line: what is wrong, where, and what to do."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `" (did you mean 'x'?)"` for the nearest known name, or an empty string when none is near."""
    near = get_close_matches(word, list(known), n=1)
    return f" (did you mean '{near[0]}'?)" if near else ""


def run_command(main: Callable[[list[str]], None], arguments: list[str] | None = None) -> None:
    """Run a command-line entry point: a `UserError` becomes one line on stderr and exit code 2.

    So does a disk that takes nothing more. Ctrl-C, and output that nobody reads any more, as behind
    `| head -1`, end the command quietly, with the codes that shells give.
    """
    _open_streams()
    try:
        _check_working_directory()
        main(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()
    except UserError as error:
        _end(2, str(error))
    except KeyboardInterrupt:
        _end(128 + signal.SIGINT)
    except BrokenPipeError:
        if not _output_is_broken():
            raise
        _end(128 + signal.SIGPIPE)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise
        _end(2, f"{error.filename or 'the output'} cannot be written: {error.strerror}")


def _end(code: int, message: str = "") -> NoReturn:
    with suppress(OSError):
        if message:
            print(f"error: {_one_line(message)}", file=sys.stderr, flush=True)
    try:
        sys.stdout.flush()
    except OSError:  # what is left would be flushed once more at the end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def _open_streams() -> None:
    """Let streams that the shell has closed lead nowhere, never into a file that is opened later.

    What the locale cannot write is written as Python writes it in a string.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115 - open to the end
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _check_working_directory() -> None:
    try:
        os.getcwd()  # noqa: PTH109 - Path.cwd is the same
    except FileNotFoundError as error:
        raise UserError("the working directory was removed: change to a folder that exists") from error


def _output_is_broken() -> bool:
    poll = select.poll()
    poll.register(sys.stdout, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _one_line(text: str) -> str:
    """What cannot be printed, such as a newline in the name of a file, as Python writes it in a string."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text
    )
