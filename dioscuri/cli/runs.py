"""Command lines of the twins' `train.py` and `synthesize.py`.

Usage: `[CFG] [section.option=value ...]`, and for training `[--resume-from DIR]`. CFG and DIR are relative to
where the caller stands; runs live in the twin's folder, as `logs-<run.name>/`.
"""

import errno
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dioscuri.checkpoint.directory import RunDirectory
from dioscuri.cli.launch import is_worker, launch
from dioscuri.context import Context, Work
from dioscuri.contract import check_options
from dioscuri.data import open_datasets
from dioscuri.data.classes import read_classes
from dioscuri.engine import Engine
from dioscuri.errors import UserError, run_command
from dioscuri.hparams import load
from dioscuri.hparams.archive import resolve
from dioscuri.run.synthesize import prepare_synthesis
from dioscuri.run.train import prepare_training

MakeEngine = Callable[[Any], Engine]
CountProcesses = Callable[[int], int]
"""From `run.num_gpus` to the processes to start; a `UserError` where the machine has fewer devices."""
Prepare = Callable[[Context], Work]

DEFAULT_CFG = Path("egs", "hierarchical_vae", "digits.cfg")
_OVERRIDE = re.compile(r"\w+\.\w+=.*", re.DOTALL)
_RANK_VARIABLES = ("RANK", "JAX_PROCESS_ID", "SLURM_PROCID")
_SECONDS_FOR_THE_FIRST = 5


@dataclass(frozen=True)
class Arguments:
    """A parsed command line."""

    cfg: Path
    overrides: tuple[str, ...] = ()
    resume_from: Path | None = None


def parse(arguments: Sequence[str], *, default_cfg: Path, resumes: bool) -> Arguments:
    """Parse a command line; `--resume-from` is known where `resumes` is set. A `UserError` ends with the
    usage."""
    usage = _usage(resumes=resumes)
    words, cfg, overrides, resume_from = list(arguments), [], [], None
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
        elif _OVERRIDE.fullmatch(word):
            overrides.append(word)
        elif "=" in word and not Path(word).exists():
            raise UserError(f"'{word}' is not section.option=value; {usage}")
        else:
            cfg.append(Path(word))
    if len(cfg) > 1:
        raise UserError(f"more than one configuration: {', '.join(map(str, cfg))}; {usage}")
    return Arguments(cfg[0] if cfg else default_cfg, tuple(overrides), resume_from)


def _usage(*, resumes: bool) -> str:
    return "usage: [CFG] [section.option=value ...]" + (" [--resume-from DIR]" if resumes else "")


def _asks_for_help(words: Sequence[str]) -> bool:
    return not {"-h", "--help"}.isdisjoint(words)


def train_command(
    make_engine: MakeEngine, twin: Path, *, count_processes: CountProcesses | None = None
) -> None:
    """Entry point of a twin's `train.py`. A twin that wants a process a device counts them."""

    def main(words: list[str]) -> None:
        if _asks_for_help(words):
            print(_usage(resumes=True))
            return
        arguments = parse(words, default_cfg=twin.parent / DEFAULT_CFG, resumes=True)
        prepare = partial(prepare_training, resume_from=arguments.resume_from)
        _start(make_engine, twin, arguments, prepare, count_processes)

    _run(main)


def synthesize_command(
    make_engine: MakeEngine, twin: Path, *, count_processes: CountProcesses | None = None
) -> None:
    """Entry point of a twin's `synthesize.py`."""

    def main(words: list[str]) -> None:
        if _asks_for_help(words):
            print(_usage(resumes=False))
            return
        arguments = parse(words, default_cfg=twin.parent / DEFAULT_CFG, resumes=False)
        _start(make_engine, twin, arguments, prepare_synthesis, count_processes)

    _run(main)


def _start(
    make_engine: MakeEngine,
    twin: Path,
    arguments: Arguments,
    prepare: Prepare,
    count_processes: CountProcesses | None,
) -> None:
    """Resolve the run's options while its lock is held, then work in this process or in several."""
    given = load(arguments.cfg, arguments.overrides)
    check_options(given)
    directory = RunDirectory.of(twin, given.run.name)
    if prepare is prepare_synthesis and not directory.path.is_dir():
        raise UserError(f"there is no run '{given.run.name}' in {twin}: train it first, or give its run.name")
    with _held(directory):
        options = resolve(arguments.cfg, arguments.overrides, twin)
        hparams = options.hparams
        check_options(hparams)
        n_processes = 1
        if count_processes and hparams.run.num_gpus > 1 and not is_worker():
            n_processes = count_processes(hparams.run.num_gpus)
        if n_processes <= 1:
            if _rank() == 0:
                print(*options.messages, sep="\n", end="\n" if options.messages else "", flush=True)
            sets = open_datasets(hparams, read_classes(directory.path))
            work = prepare(Context(hparams, directory, sets, make_engine(hparams)))
            if _rank() == 0 and prepare is not prepare_synthesis:
                options.save()
            work()
            return
    sys.exit(launch(n_processes))


@contextmanager
def _held(directory: RunDirectory) -> Iterator[None]:
    """Of several processes, the first holds the lock for all."""
    if _rank():
        yield
    else:
        with directory.locked():
            yield


def _run(main: Callable[[list[str]], None]) -> None:
    def guarded(words: list[str]) -> None:
        try:
            main(words)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
                raise
            raise UserError(f"{error.filename or 'the run'} cannot be written: {error.strerror}") from error
        except UserError:
            if _rank():
                # What is wrong for all processes is told by the first, and this one is ended meanwhile.
                time.sleep(_SECONDS_FOR_THE_FIRST)
            raise

    try:
        run_command(guarded)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


def _rank() -> int:
    return next((int(os.environ[name]) for name in _RANK_VARIABLES if name in os.environ), 0)
