"""Output folders of synthesis, each with a `settings.json` that records everything its files depend on.

Calls with different settings never share a folder. The first takes the plain name, such as `generated`; the
name of another adds the differences, such as `generated-steps=4`. A call with the same settings uses the same
folder and continues where the earlier one was interrupted.
"""

import glob
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dioscuri.checkpoint.store import Checkpoint
from dioscuri.context import Context
from dioscuri.errors import UserError
from dioscuri.files import read_json, write_json
from dioscuri.hparams.archive import to_json
from dioscuri.versions import versions

SETTINGS = "settings.json"
PROGRESS = "progress"
"""Entry of `settings.json` that records a call's progress; all others are its settings."""
LONGEST_SUFFIX = 48
_NAMED = ("checkpoint.step", "seed", "twin", "devices", "precision")
"""Settings that appear in a folder's name along with the options; all others are distinguished by a hash."""
_UNPRINTED = ("sha256", "path", "versions")

Settings = dict[str, Any]


class OutputFolder:
    """The folder of one call's settings."""

    def __init__(self, path: Path, settings: Settings, *, writes: bool) -> None:
        """Continue from what an interrupted call with the same settings has written."""
        progress = _read(path).get(PROGRESS, {}) if (path / SETTINGS).exists() else {}
        self.path, self.settings, self._writes = path, settings, writes
        self.done = 0 if progress.get("complete", True) else int(progress["done"])
        """Number of outputs that exist already, in the order in which the call makes them."""
        self.drawn: Settings = dict(progress.get("drawn", {}))
        """What is recorded of the outputs besides the settings."""

    def note(self, done: int, *, complete: bool = False, drawn: Settings | None = None) -> None:
        """Record the settings and the number of outputs; `complete`: these are all. `drawn` holds what
        else is to be recorded."""
        self.drawn |= drawn or {}
        if self._writes:
            progress: Settings = {"done": done, "complete": complete}
            progress |= {"drawn": self.drawn} if self.drawn else {}
            write_json(self.path / SETTINGS, self.settings | {PROGRESS: progress})

    def finish(self, done: int) -> None:
        """Record that all outputs exist."""
        self.note(done, complete=True)


def output_folder(
    context: Context, checkpoint: Checkpoint, parent: Path, name: str, **more: Any
) -> OutputFolder:
    """The folder `parent/name`, or another next to it if that holds outputs of other settings.

    `more` are settings other than options: the split that is read, the masks that are used. Every process
    calls this; the first one creates the folder.
    """
    settings = call_settings(context, checkpoint, **more)
    path = _chosen(parent, name, settings)
    if path.name != name:
        context.say(f"{parent / name} holds outputs of other settings: these go to {path}")
    return _begun(context, OutputFolder(path, settings, writes=context.writes))


@contextmanager
def finished_folder(parent: Path, name: str, settings: Settings) -> Iterator[Path]:
    """The folder of a call without a run, which is recorded as complete when the block ends."""
    copy: Settings = json.loads(json.dumps(settings))
    folder = OutputFolder(_chosen(parent, name, copy), copy, writes=True)
    folder.note(0)
    yield folder.path
    folder.finish(1)


def given_folder(
    context: Context, checkpoint: Checkpoint, path: Path, option: str, **more: Any
) -> OutputFolder:
    """The folder that an option names; a `UserError` if it holds outputs of other settings."""
    settings, previous = call_settings(context, checkpoint, **more), settings_in(path)
    if previous and previous != settings:
        old, new = flattened(previous), flattened(settings)
        names = [name for name in old | new if old.get(name) != new.get(name)]
        raise UserError(
            f"[synthesis] {option} {path} holds output of other settings ({', '.join(names)}): give another "
            "folder, or remove it"
        )
    return _begun(context, OutputFolder(path, settings, writes=context.writes))


def _begun(context: Context, folder: OutputFolder) -> OutputFolder:
    context.engine.barrier()  # all processes have read it before the first one writes
    folder.note(folder.done)
    return folder


def only_folder(parent: Path, name: str, option: str) -> Path:
    """The folder that a mode has written under this name, for another mode to read.

    A `UserError` if calls with different settings have written several: then `option` must name one.
    """
    first = parent / name
    others = [path for path in sorted(parent.glob(f"{glob.escape(name)}-*")) if (path / SETTINGS).exists()]
    written = [path for path in (first, *others) if path.is_dir()]
    if len(written) > 1:
        raise UserError(
            f"{', '.join(map(str, written))} were made with different settings: set {option} to one of them"
        )
    return written[0] if written else first


def call_settings(
    context: Context, checkpoint: Checkpoint, *, matters: Sequence[str] | None = None, **more: Any
) -> Settings:
    """Everything that a call's outputs depend on, as read back from JSON; `matters` are the relevant options
    of `[synthesis]`, None means all."""
    hparams, options = context.hparams, to_json(context.hparams)
    averaged = hparams.synthesis.load_ema_weights
    synthesis = options["synthesis"]
    settings = {
        "mode": hparams.synthesis.synthesis_mode,
        **origin(context, checkpoint, averaged=averaged),
        "options": {
            "data": options["data"],
            "synthesis": {name: synthesis[name] for name in (synthesis if matters is None else matters)},
        },
        **more,
    }
    copy: Settings = json.loads(json.dumps(settings))
    return copy


def origin(context: Context, checkpoint: Checkpoint, *, averaged: bool) -> Settings:
    """The run and weights that computed something, and the software and device."""
    file = f"{'ema' if averaged else 'model'}.safetensors"
    return {
        **machine(context),
        "checkpoint": {
            "path": str(Path(*checkpoint.path.parts[-2:])),
            "step": checkpoint.step,
            "sha256": checkpoint.info["files"][file]["sha256"],
        },
        "weights": "average" if averaged else "raw",
    }


def machine(context: Context) -> Settings:
    """The run that computes something, and the software and device."""
    run = context.hparams.run
    return {
        "run": run.name,
        "family": run.family,
        "seed": run.seed,
        "twin": context.engine.name,
        "devices": context.engine.device_count,
        "precision": context.hparams.train.precision,
        "versions": versions(),
    }


def settings_in(folder: Path) -> Settings:
    """Settings of the files in a folder; empty if none are recorded."""
    path = folder / SETTINGS
    return {k: v for k, v in _read(folder).items() if k != PROGRESS} if path.is_file() else {}


def is_whole(folder: Path) -> bool:
    """Whether a folder's outputs are complete, as far as is recorded."""
    path = folder / SETTINGS
    return not path.is_file() or _read(folder).get(PROGRESS, {}).get("complete", True) is True


def printable(settings: Settings) -> dict[str, Any]:
    """The settings for one printed line: names to values, without hashes, versions and data options."""
    return {
        name.removeprefix("options.synthesis."): value
        for name, value in flattened(settings).items()
        if _is_short(name) and not name.startswith("options.data.")
    }


def _read(folder: Path) -> Settings:
    settings = read_json(folder / SETTINGS, "settings of outputs")
    return settings if isinstance(settings, dict) else {}


def _chosen(parent: Path, name: str, settings: Settings) -> Path:
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    first = parent / name
    for path in (first, parent / f"{name}-{_difference(settings_in(first), settings) or digest}"):
        if _is_free(path) or settings_in(path) == settings:
            return path
    return parent / f"{name}-{digest}"


def _is_free(path: Path) -> bool:
    """Whether a folder is empty or holds only the record of a call that failed before its first output."""
    names = {entry.name for entry in path.iterdir()} if path.is_dir() else set()
    return not names or (names == {SETTINGS} and not any(_read(path).get(PROGRESS, {"done": 1}).values()))


def _difference(before: Settings, now: Settings) -> str:
    """The options that differ, for a folder's name; empty if there are none or too many."""
    old, new = flattened(before), flattened(now)
    printable = [
        f"{name.rpartition('.')[2]}={'' if value is None else value}"
        for name, value in new.items()
        if old.get(name) != value and (name.startswith("options.") or name in _NAMED)
    ]
    text = "-".join(re.sub(r"[^\w.=,+-]+", "", word) for word in printable)
    return text if before and len(text) <= LONGEST_SUFFIX else ""


def _is_short(name: str) -> bool:
    return not any(word in name.split(".") for word in _UNPRINTED)


def flattened(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their names, joined by dots."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= flattened(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
