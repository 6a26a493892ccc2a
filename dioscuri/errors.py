"""The exception for mistakes of the user.

Commands catch it, print its message as one line and exit with code 2. Any other exception is a bug and keeps
its traceback.
"""

import errno
import os
import re
import select
import signal
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from difflib import get_close_matches
from typing import Any, NoReturn


class UserError(ValueError):
    """A mistake that the user can fix. The message is one line: what is wrong, where, and what to do.

    Unprintable characters in it, such as a line break in a file's name, become escapes.
    """

    def __init__(self, message: str) -> None:
        super().__init__(_one_line(message))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`" (did you mean 'x'?)"` for the most similar known name; an empty string if none is similar."""
    near = get_close_matches(word, list(known), n=1)
    return f" (did you mean '{near[0]}'?)" if near else ""


def shorten(value: Any, length: int = 80) -> str:
    """A value on one line; text is quoted only if it must be."""
    line = value if isinstance(value, str) and value.isprintable() and value else repr(value)
    return line if len(line) <= length else f"{line[: length - 3]}..."


def kind_of(value: Any) -> str:
    """What a value is, with its article: "an int", "a list", "None"."""
    name = {"ndarray": "array", "str": "text"}.get(type(value).__name__, type(value).__name__)
    return "None" if value is None else f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


def quoted(value: Any) -> str:
    """A value as Python writes it, such as an array, on one line and shortened if it is long."""
    return shorten(re.sub(r"\s*\n\s*", " ", repr(value)))


def run_command(main: Callable[[list[str]], None], arguments: list[str] | None = None) -> None:
    """Run a command-line entry point: a `UserError` becomes one line on stderr and exit code 2.

    So do a full disk, a name that is too long and a file that may not be used. Ctrl-C and a closed output, as
    with `| head -1`, end the command quietly, with the exit codes that shells use.
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
        if error.errno in (errno.ENAMETOOLONG, errno.EACCES):
            _end(2, f"{error.filename or 'a file'} cannot be used: {error.strerror}")
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise
        _end(2, f"{error.filename or 'the output'} cannot be written: {error.strerror}")


def _end(code: int, message: str = "") -> NoReturn:
    with suppress(OSError):
        if message:
            print(f"error: {_one_line(message)}", file=sys.stderr, flush=True)
    try:
        sys.stdout.flush()
    except OSError:  # the rest would be flushed again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def _open_streams() -> None:
    """Connect streams that the shell has closed to the null device, so that no file opened later becomes one.

    Characters that the locale cannot encode are printed as escapes.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free descriptor
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
    """The text with unprintable characters as escapes."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text
    )
