"""The parser that all commands share, with one-line errors that suggest a name, and a page of help."""

import argparse
import re
from pathlib import Path
from typing import NoReturn

from dioscuri.errors import UserError, did_you_mean
from dioscuri.twins import FRAMEWORKS

PROGRAM = "dioscuri"
_UNKNOWN = re.compile(r"unrecognized arguments: (?P<word>[^\s=]+)")


def output_file(text: str) -> Path:
    """The `type` of an argument that names a file to write."""
    if text.endswith("/"):
        raise argparse.ArgumentTypeError(f"'{text}' is the name of a folder: give that of a file")
    return Path(text)


class _Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the line breaks of descriptions, and shows defaults that are not empty."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or action.default is False or action.default in ("", []):
            return action.help
        return super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` of one command; `usage` omits the program and has one form per line."""

    def __init__(self, command: str, usage: str, description: str, example: str = "") -> None:
        forms = [f"{PROGRAM} {command} {form}".rstrip() for form in usage.splitlines()]
        super().__init__(
            f"{PROGRAM} {command}",
            "\n       ".join(forms),
            description,
            f"example:\n  {example}" if example else None,
            formatter_class=_Formatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        """Raise a `UserError` with the most similar option and the usage."""
        unknown = _UNKNOWN.match(message)
        hint = did_you_mean(unknown["word"], self._option_string_actions) if unknown else ""
        raise UserError(f"{message}{hint}; {self.usage_line}")

    @property
    def usage_line(self) -> str:
        """All forms of the command on one line, for the end of a `UserError`."""
        return "usage: " + " or: ".join(line.strip() for line in (self.usage or "").splitlines())

    @property
    def options(self) -> list[str]:
        """Names of the options for shell completion."""
        return [name for name in self._option_string_actions if name.startswith("--")]


def add_words(parser: Parser) -> None:
    """A configuration and overrides of its options, in any order."""
    parser.add_argument(
        "words",
        nargs="*",
        metavar="CFG, section.option=value",
        help="configuration and overrides of its options",
    )


def add_twin(parser: Parser) -> None:
    """The option `--twin`."""
    parser.add_argument(
        "--twin",
        choices=list(FRAMEWORKS),
        help="the twin that computes (default: the one installed, torch if both)",
    )
