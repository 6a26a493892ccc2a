"""Folders for what a call of synthesis writes, each with `settings.json`: everything that made its files.

Calls with different settings never share a folder. The first takes the plain name, such as `generated`;
another gets a name with what differs from that, such as `generated-steps=4`. The same settings give the same
folder, in which a call continues where it was interrupted.
"""

import glob
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
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
"""Entry of the file that says how far a call has come; all others are its settings."""
LONGEST_SUFFIX = 48
_NAMED = ("checkpoint.step", "seed", "twin", "devices", "precision")
"""Settings that a folder's name tells beside the options; others are told apart by a hash."""
_UNTOLD = ("sha256", "path", "versions")

Settings = dict[str, Any]


class OutputFolder:
    """A folder that belongs to one call's settings."""

    def __init__(self, path: Path, settings: Settings, *, writes: bool) -> None:
        """Take over what an interrupted call with the same settings has left."""
        progress = _read(path).get(PROGRESS, {}) if (path / SETTINGS).exists() else {}
        self.path, self.settings, self._writes = path, settings, writes
        self.done = 0 if progress.get("complete", True) else int(progress["done"])
        """Outputs that are there already, in the order in which the call makes them."""
        self._drawn = dict(progress.get("drawn", {}))

    def note(self, done: int, *, complete: bool = False, drawn: Settings | None = None) -> None:
        """Write the settings, and that so many outputs are there; `complete`: all of them. `drawn` has what
        single files were made with beside the settings."""
        self._drawn |= drawn or {}
        if self._writes:
            progress: Settings = {"done": done, "complete": complete}
            progress |= {"drawn": self._drawn} if self._drawn else {}
            write_json(self.path / SETTINGS, self.settings | {PROGRESS: progress})

    def finish(self, done: int) -> None:
        """Note that all outputs are there."""
        self.note(done, complete=True)


def output_folder(
    context: Context, checkpoint: Checkpoint, parent: Path, name: str, **more: Any
) -> OutputFolder:
    """The folder `parent/name`, or one beside it where that holds outputs of other settings.

    `more` are settings beside the options: the split that is read, the masks that are used. Every process
    calls this; the first one creates the folder.
    """
    settings = call_settings(context, checkpoint, **more)
    path = _chosen(parent, name, settings)
    if path.name != name:
        context.say(f"{parent / name} holds outputs of other settings: these go to {path}")
    return _begun(context, OutputFolder(path, settings, writes=context.writes))


def given_folder(
    context: Context, checkpoint: Checkpoint, path: Path, option: str, **more: Any
) -> OutputFolder:
    """The folder that an option gives; a `UserError` if it holds outputs of other settings."""
    settings, beside = call_settings(context, checkpoint, **more), settings_beside(path)
    if beside and beside != settings:
        old, new = dict(_flat(beside)), dict(_flat(settings))
        names = [name for name in old | new if old.get(name) != new.get(name)]
        raise UserError(
            f"[synthesis] {option} {path} holds output of other settings ({', '.join(names)}): give another "
            "folder, or remove it"
        )
    return _begun(context, OutputFolder(path, settings, writes=context.writes))


def _begun(context: Context, folder: OutputFolder) -> OutputFolder:
    context.engine.barrier()  # all have looked before the first one writes
    folder.note(folder.done)
    return folder


def the_only(parent: Path, name: str, option: str) -> Path:
    """The folder that a mode has written under this name, to be read by another one.

    A `UserError` if calls with different settings have written several: `option` must say which.
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
    """What outputs of a call depend on, as JSON gives it back; `matters` are the options of `[synthesis]`
    that do, None: all."""
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
    """Which weights of which run computed something, and with what."""
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
    """Which run computes something, and with what."""
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


def settings_beside(folder: Path) -> Settings:
    """Settings of the files in a folder; empty where none are told."""
    path = folder / SETTINGS
    return {k: v for k, v in _read(folder).items() if k != PROGRESS} if path.is_file() else {}


def is_whole(folder: Path) -> bool:
    """Whether all outputs of a folder are there, as far as is told."""
    path = folder / SETTINGS
    return not path.is_file() or _read(folder).get(PROGRESS, {}).get("complete", True) is True


def told(settings: Settings) -> dict[str, Any]:
    """The settings that a line can hold: names to values, without hashes, versions and options of data."""
    return {
        name.removeprefix("options.synthesis."): value
        for name, value in _flat(settings)
        if _is_short(name) and not name.startswith("options.data.")
    }


def _read(folder: Path) -> Settings:
    settings = read_json(folder / SETTINGS, "settings of outputs")
    return settings if isinstance(settings, dict) else {}


def _chosen(parent: Path, name: str, settings: Settings) -> Path:
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    first = parent / name
    for path in (first, parent / f"{name}-{_difference(settings_beside(first), settings) or digest}"):
        if _is_free(path) or settings_beside(path) == settings:
            return path
    return parent / f"{name}-{digest}"


def _is_free(path: Path) -> bool:
    """Whether a folder holds nothing, or only what a call that failed at once has noted."""
    names = {entry.name for entry in path.iterdir()} if path.is_dir() else set()
    return not names or (names == {SETTINGS} and not any(_read(path).get(PROGRESS, {"done": 1}).values()))


def _difference(before: Settings, now: Settings) -> str:
    """The options that differ, for a folder's name; empty where there are none, or too many to tell."""
    old, new = dict(_flat(before)), dict(_flat(now))
    told = [
        f"{name.rpartition('.')[2]}={'' if value is None else value}"
        for name, value in new.items()
        if old.get(name) != value and (name.startswith("options.") or name in _NAMED)
    ]
    text = "-".join(re.sub(r"[^\w.=,+-]+", "", word) for word in told)
    return text if before and len(text) <= LONGEST_SUFFIX else ""


def _is_short(name: str) -> bool:
    return not any(word in name.split(".") for word in _UNTOLD)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
