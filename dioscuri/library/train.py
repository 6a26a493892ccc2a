"""Train runs in this process."""

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any, get_type_hints

from dioscuri.context import OnMetrics
from dioscuri.errors import UserError, kind_of
from dioscuri.face.model import Model
from dioscuri.face.options import check_types, settings_of
from dioscuri.files import read_path
from dioscuri.hparams.loading import family
from dioscuri.hparams.reader import read, settings
from dioscuri.library.load import load
from dioscuri.places import configuration, here
from dioscuri.run.start import start
from dioscuri.run.train import prepare_training
from dioscuri.twins import open_twin

SOURCE = "train"
_IN_CALLBACK: ContextVar[bool] = ContextVar("in_callback", default=False)
"""Whether this thread is in the callback of a run, which has not released its folder and its devices."""


def train(
    twin: str,
    cfg: Path | str,
    *,
    callback: Callable[[int, dict[str, float]], object] | None,
    overrides: Mapping[str, Any],
) -> Model:
    """See `dioscuri.torch.train`."""
    path = read_path(cfg, f"{SOURCE} takes a .cfg file")
    if callback is not None and not callable(callback):
        raise UserError(f"callback must be a function of step and metrics, not {kind_of(callback)}")
    if _IN_CALLBACK.get():
        raise UserError("train was called from the callback of another train: call it after that has ended")
    program, home = open_twin(twin), here().home(twin)
    words = _words(configuration(path)[0], overrides, home)
    on_metrics = None if callback is None else _marked(callback)
    directory, n_processes = start(program, home, path, words, prepare_training, on_metrics)
    if n_processes > 1:
        raise UserError(
            f"[run] num_gpus needs {n_processes} processes, but this is only one: set it to 1, or train with "
            "'dioscuri train'"
        )
    return load(twin, directory.path)


def _marked(callback: OnMetrics) -> OnMetrics:
    """The callback, which marks its thread."""

    def call(step: int, metrics: dict[str, float]) -> None:
        token = _IN_CALLBACK.set(True)
        try:
            callback(step, metrics)
        finally:
            _IN_CALLBACK.reset(token)

    return call


def _words(path: Path, overrides: Mapping[str, Any], home: Path) -> Sequence[str]:
    """Keyword arguments as command-line words."""
    sections = get_type_hints(family(settings(read(path), home)).HParams)
    given = settings_of(sections, overrides, SOURCE)
    check_types(sections, given)
    return [f"{item.section}.{item.option}={item.text}" for item in given]
