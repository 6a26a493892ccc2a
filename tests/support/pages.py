"""The code blocks of a page: what they are, checks of their commands, and running them.

A comment on the line before a block says how it is tested; a block without one is run as it stands.

    <!-- quick -->            run with two training steps and a few pictures
    <!-- checked: REASON -->  names, options and values are checked, nothing is run
    <!-- not run: REASON -->  neither
"""

import re
import runpy
import shlex
import sys
import tomllib
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, get_type_hints

import pytest

from data_scripts.prepare import DATA_SETS
from dioscuri.cli import foreign
from dioscuri.cli.main import command_parser, dispatch
from dioscuri.cli.runs import parse
from dioscuri.errors import UserError
from dioscuri.hparams import load
from dioscuri.registry import family_module
from tests.support.twins import call

ROOT = Path(__file__).parents[2]
QUICK = (
    "train.total_train_steps=2",
    "train.checkpoint_and_eval_interval_in_steps=2",
    "train.logging_interval_in_steps=1",
    "train.batch_size=4",
    "val.n_samples_for_validation=8",
    "val.batch_size=8",
    "val.report_samples=0",
    "metrics.report_baselines=False",
    "synthesis.n_samples=8",
    "synthesis.batch_size=8",
    "synthesis.n_generation_batches=1",
)
"""What `quick` adds to the options of a command."""

_BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>quick|(?:checked|not run): [^\n]+) -->\n+)?^```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_TWIN_SCRIPT = re.compile(r"(?P<job>train|synthesize)\.(sh|py)")


@dataclass(frozen=True)
class Block:
    """A block of code, and its first line's number in its page."""

    language: str
    text: str
    mark: str
    line: int


def blocks(page: str) -> list[Block]:
    """The blocks of a page in Markdown."""
    return [
        Block(
            found["language"],
            found["text"],
            found["mark"] or "",
            page.count("\n", 0, found.start("text")) + 1,
        )
        for found in _BLOCK.finditer(page)
    ]


def commands(text: str) -> Iterator[tuple[str, list[str]]]:
    """Folder, relative to the first one, and words of every command of a block for the shell."""
    folder = "."
    for line in text.replace("\\\n", " ").splitlines():
        for command in line.split("&&"):
            words = shlex.split(command.removeprefix(".venv/bin/"), comments=True)
            if words[:1] == ["cd"]:
                folder = str(Path(folder, words[1]))
            elif words:
                yield folder, words[2:] if words[1:3] == ["-m", "dioscuri"] else words


def check(folder: str, words: Sequence[str]) -> None:
    """Fail unless a command's program exists and accepts its words. Nothing is run."""
    program, *rest = words
    if program == "pip":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        assert set(re.findall(r"\w+", rest[-1].partition("[")[2])) <= set(extras), words
    elif program == "dioscuri" and rest[0] not in ("train", "synthesize"):
        parser = foreign.make_parser() if foreign.OPTION in rest else command_parser(rest[0])
        parser.parse_intermixed_args(rest[1:])
    elif program == "dioscuri":
        chosen = command_parser(rest[0]).parse_intermixed_args(rest[1:])
        if not getattr(chosen, "model", ""):
            _check_run(folder, chosen.words)
    else:
        assert program in ("sh", "python"), f"unknown program: {words}"
        _check_script(folder, Path(folder, rest[0]), rest[1:])


def _check_script(folder: str, script: Path, words: Sequence[str]) -> None:
    path = ROOT / script
    assert path.is_file(), f"{script} does not exist"
    if _TWIN_SCRIPT.fullmatch(path.name):
        _check_run(folder, words)
    elif path.name == "download_and_preprocess.sh":
        assert words[0] in DATA_SETS
    elif path.suffix == ".py":
        _check_arguments(path, words)


class _Parsed(Exception):
    """A script has accepted its arguments."""


def _check_arguments(path: Path, words: Sequence[str]) -> None:
    """Start a script, and leave it when it has read its arguments."""

    def left_after(parse: Callable[..., Any]) -> Callable[..., NoReturn]:
        def parsed(*arguments: Any) -> NoReturn:
            parse(*arguments)
            raise _Parsed

        return parsed

    with pytest.MonkeyPatch.context() as patch:
        for name in ("parse_args", "parse_intermixed_args"):
            patch.setattr(ArgumentParser, name, left_after(getattr(ArgumentParser, name)))
        patch.setattr(sys, "argv", [str(path), *words])
        patch.setenv("DIOSCURI_RESTARTED", "1")
        patch.setattr(sys, "path", [*sys.path])
        with pytest.raises(_Parsed):
            runpy.run_path(str(path), run_name="__main__")


def _check_run(folder: str, words: Sequence[str]) -> None:
    """The configuration is one of ours and takes the overrides."""
    arguments = parse(words, resumes=True)
    cfg = arguments.cfg if arguments.cfg.is_absolute() else ROOT / folder / arguments.cfg
    assert cfg.is_file(), f"{cfg} does not exist"
    load(cfg, arguments.overrides)


def run(folder: str, words: Sequence[str], root: Path, *, quick: bool) -> None:
    """Run a command in this process. The clone is `root`, with the runs of both twins."""
    program, *rest = words
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root / folder)
        if program == "dioscuri":
            twin = "jax" if "jax" in rest else "torch"
            patch.setenv("DIOSCURI_RUNS", str(root / f"{twin}_impl"))
            dispatch([*rest, *(quick_options(rest[1:]) if quick else ())])
            return
        script = Path(root / folder, rest[0])
        patch.setattr(sys, "argv", [rest[0], *rest[1:]])
        job = _TWIN_SCRIPT.fullmatch(script.name)
        if job:
            call(job["job"], script.parent.resolve(), *rest[1:], *(quick_options(rest[1:]) if quick else ()))
        else:
            runpy.run_path(str(script), run_name="__main__")


def quick_options(words: Sequence[str]) -> list[str]:
    """Those of `QUICK` that the family and the mode of a command have, and that it does not set."""
    arguments = parse(words, resumes=True)
    hints = get_type_hints(family_module(load(arguments.cfg).run.family, "options").HParams)
    given = {word.partition("=")[0] for word in arguments.overrides}
    names = {word: word.partition("=")[0] for word in QUICK}
    fitting = [word for word, name in names.items() if name not in given and _has(hints, name)]
    return [word for word in fitting if _is_read(arguments, word)]


def _is_read(arguments: Any, word: str) -> bool:
    """Whether the command's mode reads an option."""
    try:
        load(arguments.cfg, [*arguments.overrides, word])
    except UserError as error:
        if "applies only if" not in str(error):
            raise
        return False
    return True


def _has(sections: dict[str, Any], option: str) -> bool:
    section, _, name = option.partition(".")
    return name in getattr(sections.get(section), "__dataclass_fields__", {})
