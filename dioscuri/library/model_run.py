"""Runs that hold a ready model, for the modes of synthesis: `dioscuri synthesize --model`."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from dioscuri.checkpoint import pretrained, store
from dioscuri.checkpoint.directory import RunDirectory, remove
from dioscuri.checkpoint.weight_files import weights_digest
from dioscuri.errors import UserError
from dioscuri.face.model import face_of
from dioscuri.files import missing_parents, remove_empty
from dioscuri.hparams import load
from dioscuri.hparams.archive import copy_path
from dioscuri.importers.pipelines import ENCODER, is_pipeline
from dioscuri.importers.published_run import Request, make_published_run
from dioscuri.library.sources import model_folder
from dioscuri.places import runs_folder

MODE = "synthesis.synthesis_mode"


@contextmanager
def run_of_model(model: str, home: Path, words: Sequence[str]) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """The configuration of a run with the weights of `model`, and overrides of its options: `words`, and the
    mode `generation` unless they choose one or the family has no such mode.

    `model` is a shipped name, a model folder or a hub id. The run is `logs-<its last word>` in `home`
    unless `run.name` or `run.root` says otherwise; it is made the first time, and removed if the block then
    ends with a `UserError` before anything is added to it. A `UserError` if that run holds other weights.
    """
    source = model_folder(model)
    if is_pipeline(source) or (source / ENCODER / pretrained.CONFIG).is_file():
        raise UserError(f"--model {model}: this pipeline draws from texts: give --prompt TEXT")
    if not (source / pretrained.CONFIG).is_file():
        raise UserError(
            f"--model {model}: it has no {pretrained.CONFIG}; use a run by its configuration instead"
        )
    name = _given(words, "run.name") or Path(model).name or source.resolve().name
    run = RunDirectory.of(runs_folder(_given(words, "run.root"), home), name)
    is_new, missing = not run.path.exists(), missing_parents(run.path)
    if not store.steps(run.checkpoints):
        config = source / pretrained.CONFIG
        request = Request(source=source, run=run.path, config=config, overrides=_mode_of(source))
        *notes, _ = make_published_run(request)
        print(*notes, f"{run.path}: a run with the weights of {model}", sep="\n")
    elif store.load(run.checkpoints, groups=()).info.get("imported_sha256") != weights_digest(source):
        raise UserError(
            f"{run.path} holds other weights than the model '{model}': add run.name=OTHER, or leave out "
            "--model to use that run"
        )
    cfg = copy_path(run.path.parent, name)
    hparams = load(cfg)
    generates = "generate" in face_of(hparams.run.family).does
    implied = generates and hparams.synthesis.synthesis_mode != "generation" and not _given(words, MODE)
    made = _names(run.path)
    try:
        yield cfg, (f"{MODE}=generation", *words) if implied else tuple(words)
    except UserError:
        if is_new and _names(run.path) == made:
            with suppress(UserError):  # another process uses it
                remove(run.path)
            remove_empty(missing)
        raise


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def _mode_of(source: Path) -> tuple[str, ...]:
    """The mode that a run of a saved folder has at first: generation, if the model generates."""
    if not pretrained.is_folder(source):
        return ()
    family = pretrained.read_hparams(source).run.family
    return (f"{MODE}=generation",) if "generate" in face_of(family).does else ()


def _given(words: Sequence[str], option: str) -> str:
    """The value that the last override of an option gives it, or an empty text."""
    values = [word.partition("=")[2] for word in words if word.startswith(f"{option}=")]
    return values[-1].strip("'\"") if values else ""
