"""Train runs in this process."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_type_hints

from dioscuri.checkpoint.directory import RunDirectory
from dioscuri.context import Context
from dioscuri.contract import check_options
from dioscuri.data import open_datasets
from dioscuri.data.classes import read_classes
from dioscuri.errors import UserError
from dioscuri.face.model import Model
from dioscuri.face.options import check_types, settings_of
from dioscuri.hparams import load as read_options
from dioscuri.hparams.archive import resolve
from dioscuri.hparams.loading import family
from dioscuri.hparams.reader import read, settings
from dioscuri.library.load import load
from dioscuri.places import configuration, here, runs_folder
from dioscuri.run.train import prepare_training
from dioscuri.twins import open_twin

SOURCE = "train"


def train(
    twin: str,
    cfg: Path | str,
    *,
    callback: Callable[[int, dict[str, float]], object] | None,
    overrides: Mapping[str, Any],
) -> Model:
    """See `dioscuri.torch.train`."""
    program, home = open_twin(twin), here().home(twin)
    path, note = configuration(Path(cfg))
    words = _words(path, overrides, home)
    given = read_options(path, words, twin=home)
    check_options(given)
    if given.run.num_gpus and program.count_processes(given.run.num_gpus) > 1:
        raise UserError(
            f"[run] num_gpus is {given.run.num_gpus}: this is one process, which has one GPU here; set it to "
            "1, or train with 'dioscuri train'"
        )
    runs = runs_folder(given.run.root, home)
    directory = RunDirectory.of(runs, given.run.name)
    with directory.locked():
        options = resolve(path, words, runs, home=home)
        check_options(options.hparams)
        for line in (*([note] if note else []), *options.messages):
            print(line, flush=True)
        sets = open_datasets(options.hparams, read_classes(directory.path))
        engine = program.make_engine(options.hparams)
        work = prepare_training(Context(options.hparams, directory, sets, engine, callback))
        options.save()
        work()
    return load(twin, directory.path)


def _words(path: Path, overrides: Mapping[str, Any], home: Path) -> Sequence[str]:
    """Keywords as words of a command line."""
    sections = get_type_hints(family(settings(read(path), home)).HParams)
    found = settings_of(sections, overrides, SOURCE)
    check_types(sections, found)
    return [f"{item.section}.{item.option}={item.text}" for item in found]
