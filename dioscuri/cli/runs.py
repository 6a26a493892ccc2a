"""Arguments, lock and processes of the commands that train or use a run.

The twins' `train.py` and `synthesize.py` take `[CFG] [section.option=value ...]`, and for training
`[--resume-from DIR]`; `dioscuri train` and `dioscuri synthesize` do the same work. CFG and DIR are relative
to the working directory.
"""

import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from dioscuri.cli.launch import launch
from dioscuri.errors import UserError, run_command
from dioscuri.job import job_of
from dioscuri.places import examples, here
from dioscuri.run.start import Prepare, start
from dioscuri.run.synthesize import prepare_synthesis
from dioscuri.run.train import prepare_training
from dioscuri.twins import Twin, open_twin

DEFAULT_CFG = Path("hierarchical_vae", "digits.cfg")
_OVERRIDE = re.compile(r"\w+\.\w+=.*", re.DOTALL)
_SECONDS_FOR_THE_FIRST = 5


@dataclass(frozen=True)
class Arguments:
    """A parsed command line."""

    cfg: Path
    overrides: tuple[str, ...] = ()
    resume_from: Path | None = None


def parse(arguments: Sequence[str], *, resumes: bool) -> Arguments:
    """Parse the words of a twin's script; `resumes` adds the option `--resume-from`.

    The message of a `UserError` ends with the usage.
    """
    usage = _usage(resumes=resumes)
    words, others, resume_from = list(arguments), [], None
    while words:
        word = words.pop(0)
        name, _, value = word.partition("=")
        if name == "--resume-from" and resumes:
            value = value or (words.pop(0) if words else "")
            if not value:
                raise UserError(f"--resume-from needs a folder; {usage}")
            resume_from = Path(value)
        elif word.startswith("-"):
            raise UserError(f"unknown option '{word}'; {usage}")
        else:
            others.append(word)
    return replace(sort_words(others, usage), resume_from=resume_from)


def sort_words(words: Sequence[str], usage: str) -> Arguments:
    """Separate the configuration from the overrides; the message of a `UserError` ends with the usage."""
    cfg, overrides = [], []
    for word in words:
        if _OVERRIDE.fullmatch(word):
            overrides.append(word)
        elif "=" in word and not Path(word).exists():
            raise UserError(f"'{word}' is not section.option=value; {usage}")
        else:
            cfg.append(Path(word))
    if len(cfg) > 1:
        raise UserError(f"more than one configuration: {', '.join(map(str, cfg))}; {usage}")
    return Arguments(cfg[0] if cfg else examples() / DEFAULT_CFG, tuple(overrides))


def _usage(*, resumes: bool) -> str:
    return "usage: [CFG] [section.option=value ...]" + (" [--resume-from DIR]" if resumes else "")


def script(job: str, name: str) -> None:
    """Run `train.py` or `synthesize.py` of the twin `name`, with runs in that twin's folder."""
    command = {"train": train_command, "synthesize": synthesize_command}[job]
    run_command(lambda words: command(open_twin(name), here().home(name), words))


def train_command(twin: Twin, home: Path, words: Sequence[str]) -> None:
    """Train with the command line of a twin's `train.py`, with runs in `home`."""
    if not {"-h", "--help"}.isdisjoint(words):
        print(_usage(resumes=True))
        return
    train(twin, home, parse(words, resumes=True))


def synthesize_command(twin: Twin, home: Path, words: Sequence[str]) -> None:
    """Synthesise with the command line of a twin's `synthesize.py`, with runs in `home`."""
    if not {"-h", "--help"}.isdisjoint(words):
        print(_usage(resumes=False))
        return
    synthesize(twin, home, parse(words, resumes=False))


def train(twin: Twin, home: Path, arguments: Arguments) -> None:
    """Train a run, or continue it."""
    _work(twin, home, arguments, partial(prepare_training, resume_from=arguments.resume_from))


def synthesize(twin: Twin, home: Path, arguments: Arguments) -> None:
    """Use a trained run."""
    _work(twin, home, arguments, prepare_synthesis)


def _work(twin: Twin, home: Path, arguments: Arguments, prepare: Prepare) -> None:
    """Work in this process, or in one process per device."""
    with _guarded(twin):
        _, n_processes = start(twin, home, arguments.cfg, arguments.overrides, prepare)
    if n_processes > 1:
        sys.exit(launch(n_processes))


@contextmanager
def _guarded(twin: Twin) -> Iterator[None]:
    """Let the first process of a job report an error that all have, while the others wait to be killed."""
    try:
        yield
    except UserError:
        if job_of(twin.name).index:
            time.sleep(_SECONDS_FOR_THE_FIRST)
        raise
