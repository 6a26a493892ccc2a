"""Options given on the command line as `section.option=value`."""

from collections.abc import Sequence
from pathlib import Path

from dioscuri.errors import UserError
from dioscuri.hparams.reader import DEFAULT, Setting, Settings, fold

SOURCE = "command line"


def parse(words: Sequence[str], cwd: Path | None = None, *, recorded: bool = False) -> list[Setting]:
    """Read the words; relative paths start from `cwd` (default: the working directory).

    Text needs no quotes: `data.train_data_path=my pictures`. The last word for an option counts.
    `recorded`: see `Setting`.
    """
    base = (Path.cwd() if cwd is None else cwd).absolute()
    settings: dict[tuple[str, str], Setting] = {}
    for word in words:
        name, equals, text = word.partition("=")
        section, dot, option = (piece.strip() for piece in name.partition("."))
        if not (equals and dot and section and option):
            raise UserError(f"{SOURCE}: '{word}' is not section.option=value")
        key = (fold(section), fold(option))
        if key[0] == DEFAULT:
            raise UserError(f"{SOURCE}: '{word}' must name the section of the option")
        settings[key] = Setting(*key, text.strip(), SOURCE, base, on_command_line=True, recorded=recorded)
    return list(settings.values())


def merge(settings: Settings, overrides: Sequence[Setting]) -> Settings:
    """Settings of a file, overridden by those of the command line."""
    merged = {section: dict(options) for section, options in settings.items()}
    for override in overrides:
        merged.setdefault(override.section, {})[override.option] = override
    return merged
