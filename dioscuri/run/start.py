"""Starts a run in this process: determines its options, takes its lock and does its work."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from dioscuri.checkpoint.directory import RunDirectory
from dioscuri.context import Context, OnMetrics, Work
from dioscuri.contract import check_options, family_of
from dioscuri.data import open_datasets
from dioscuri.data.classes import read_classes
from dioscuri.engine import InferenceEngine
from dioscuri.errors import UserError
from dioscuri.hparams import GivenOptions
from dioscuri.hparams.unread import check_twin
from dioscuri.job import job_of, lost_process
from dioscuri.places import configuration
from dioscuri.run.sizes import check_memory
from dioscuri.run.steps import check_step
from dioscuri.run.synthesize import prepare_synthesis
from dioscuri.twins import Twin

Prepare = Callable[[Context], Work]


def start(
    twin: Twin,
    home: Path,
    cfg: Path,
    words: Sequence[str],
    prepare: Prepare,
    on_metrics: OnMetrics | None = None,
) -> tuple[RunDirectory, int]:
    """Prepare and do the work of the run that a configuration and overrides describe.

    Runs live in `home` unless the user names another folder. Returns the run's folder and the number of
    processes that its devices need: if that is above 1, nothing has been done yet.
    """
    cfg, note = configuration(cfg)
    job = job_of(twin.name)
    given = GivenOptions.read(cfg, words, home=home)
    check_twin(given.hparams, given.overrides, twin.name)
    check_options(given.hparams)
    name, uses = given.hparams.run.name, prepare is prepare_synthesis
    directory = RunDirectory.of(given.runs, name)
    if uses and not directory.path.is_dir():
        raise UserError(f"there is no run '{name}' in {given.runs}: train it first, or give its run.name")
    # The first process holds the lock for all.
    with nullcontext() if job.index else directory.locked():
        options = given.resolve()
        hparams = options.hparams
        if hparams != given.hparams:  # the run's copy has others
            check_options(hparams)
        check_memory(hparams, training=not uses)
        if not uses:
            check_step(hparams, twin.name)
        several = hparams.run.num_gpus > 1 and job.count == 1
        n_processes = twin.count_processes(hparams.run.num_gpus) if several else 1
        if n_processes == 1:
            if job.index == 0:
                for line in (*([note] if note else []), *options.messages):
                    print(line, flush=True)
            captions = family_of(hparams).captions(hparams)
            sets = open_datasets(hparams, read_classes(directory.path), captions)
            make: Callable[[Any], Any] = twin.make_inference_engine if uses else twin.make_engine
            engine = make(hparams)
            sets.text_device = engine.text_device
            with _together(engine, hparams.run.timeout):
                work = prepare(Context(hparams, directory, sets, engine, on_metrics))
                if job.index == 0 and not uses:
                    options.save()
                work()
    return directory, n_processes


@contextmanager
def _together(engine: InferenceEngine, timeout: int) -> Iterator[None]:
    """Say in one line that another process of the run is lost."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if engine.process_count > 1 and engine.lost(error):
            raise UserError(lost_process(timeout)) from error
        raise
