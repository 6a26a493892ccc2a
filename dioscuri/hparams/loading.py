"""From a `.cfg` file and the command line to the typed options of a family."""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any

from dioscuri.errors import UserError, did_you_mean
from dioscuri.hparams import overrides as command_line
from dioscuri.hparams.building import build
from dioscuri.hparams.reader import DEFAULT, Document, Setting, Settings, read, settings
from dioscuri.hparams.schema import find, typed
from dioscuri.hparams.sections import Run
from dioscuri.places import here, runs_folder
from dioscuri.registry import family_module, family_names

DEFAULT_FAMILY = "hierarchical_vae"


def load(
    path: Path | str,
    overrides: Sequence[str] = (),
    *,
    published: Sequence[str] = (),
    cwd: Path | None = None,
    twin: Path | None = None,
) -> Any:
    """Read a `.cfg` file, apply `section.option=value` overrides and return the family's `HParams`.

    `published` are overrides from a published configuration: `overrides` take precedence over them, and they
    may include options that nothing reads.
    Relative paths in the file start from the folder `twin` (default: the PyTorch twin's), those in overrides
    from `cwd` (default: the working directory). A `UserError` names the file or the override, the section and
    the option.
    """
    words = [*command_line.parse(published, cwd, recorded=True), *command_line.parse(overrides, cwd)]
    return assemble(read(Path(path)), words, twin or here().home("torch"))


def assemble(document: Document, overrides: Sequence[Setting], twin: Path, runs: Path | None = None) -> Any:
    """The `HParams` of a document with overrides; `runs` is the folder of the runs, if known."""
    if runs is None:
        runs = _runs(command_line.merge(settings(document, twin.absolute()), overrides), twin)
    merged = command_line.merge(settings(document, twin.absolute(), runs), overrides)
    hparams = build(family(merged).HParams, merged, document.source, twin.absolute())
    check_run_name(hparams.run.name, merged)
    return hparams


def family(merged: Settings) -> ModuleType:
    """The module of `run.family`, which has `HParams` and `ARCHITECTURE`."""
    setting = _lookup(merged, "family")
    name = setting.text.strip("'\"") if setting else DEFAULT_FAMILY
    known = family_names()
    if name not in known:
        where = setting.where if setting else "[run] family"
        raise UserError(
            f"{where} '{name}' is unknown{did_you_mean(name, known)}; known: {', '.join(sorted(known))}"
        )
    return family_module(name, "options")


def _runs(merged: Settings, twin: Path) -> Path:
    """The folder of the runs, from which paths such as logs-<name> start."""
    (declared,) = (declared for declared in fields(Run) if declared.name == "root")
    setting = find(merged, "run", declared)
    return runs_folder(typed(setting, declared, str) if setting else "", twin)


def _lookup(merged: Settings, option: str) -> Setting | None:
    return next((merged[s][option] for s in ("run", DEFAULT) if option in merged.get(s, {})), None)


def check_run_name(name: str, merged: Settings) -> None:
    """Raise a `UserError` if a run's name cannot be that of a folder."""
    setting = _lookup(merged, "name")
    assert setting is not None
    if any("\ud800" <= letter <= "\udfff" for letter in name):  # bytes that were no text here
        raise UserError(
            f"{setting.where} {name!r} is not text in the encoding of this shell: set LC_ALL=C.UTF-8, or "
            "choose a name in ASCII"
        )
    if not name.strip() or not name.isprintable() or "/" in name or "\\" in name:
        raise UserError(
            f"{setting.where} {name!r} names the run's folder: it must be one line without slashes"
        )
    if len(name) > 100 or len(name.encode()) > 200:
        raise UserError(f"{setting.where} is too long: a run's name has at most 100 characters or 200 bytes")
