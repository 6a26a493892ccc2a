"""Reading a table of experiments.

A table is written like a `.cfg`. Its section `[sweep]` names the base configurations and says how to run;
every option of its other sections holds a list of values to try, or one value for all runs. Every combination
of base, twin and values is a run.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Any

from dioscuri.contract import check_options
from dioscuri.errors import UserError
from dioscuri.hparams import overrides as command_line
from dioscuri.hparams.archive import rewritten, to_json
from dioscuri.hparams.building import build
from dioscuri.hparams.loading import assemble
from dioscuri.hparams.reader import Document, Setting, Settings, fold, read, settings
from dioscuri.hparams.schema import option
from dioscuri.places import Places, runs_folder

MAX_RUNS = 10_000
_LONGEST_NAME = 100


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """`[sweep]`: base configurations, and how to run."""

    name: str = option(doc="prefix of the runs' names; results lie in logs-sweep-<name>/")
    base: tuple[str, ...] = option(doc="base configurations, relative to the table's folder")
    twin: tuple[str, ...] = option(("torch",), doc="'torch', 'jax' or both")
    processes: int = option(1, low=1, high=2**10, doc="runs at a time")
    tries: int = option(3, low=1, doc="attempts before a run counts as failed")
    silence: float = option(0, low=0, doc="seconds without output after which a run is restarted; 0: never")
    devices: tuple[str, ...] = option(
        (), doc="values of CUDA_VISIBLE_DEVICES for the simultaneous runs, in turn; empty: unchanged"
    )
    where: str = option(
        "auto",
        choices=("auto", "here", "slurm"),
        doc="here, as SLURM jobs, or as jobs if the command itself runs in one",
    )
    sbatch_options: tuple[str, ...] = option((), doc="more arguments of sbatch, such as '--gres=gpu:1'")
    curve: str = option("", doc="tag of the validation curve; empty: the family's default")
    curve_over: str = option("seconds", choices=("seconds", "step"), doc="x axis of the curves")


@dataclass(frozen=True)
class _Sections:
    sweep: Sweep


@dataclass(frozen=True)
class Run:
    """One combination: `values` (column -> value) distinguish it from the others, `words` set its options."""

    name: str
    twin: str
    base: Path
    hparams: Any
    words: tuple[str, ...]
    text: str
    values: dict[str, Any] = field(default_factory=dict)

    @property
    def options(self) -> dict[str, Any]:
        """Resolved options, as read back from JSON."""
        return to_json(self.hparams)

    @property
    def key(self) -> str:
        """A unique name: runs of the two twins may share `name`."""
        return f"{self.twin}-{self.name}"


@dataclass(frozen=True)
class Table:
    """The settings of a sweep, and its runs."""

    path: Path
    sweep: Sweep
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class _Axis:
    """An option and the values to try."""

    setting: Setting
    values: tuple[Any, ...]

    @property
    def column(self) -> str:
        return f"{fold(self.setting.section)}.{fold(self.setting.option)}"


def open_table(path: Path, words: Sequence[str], places: Places) -> Table:
    """Read the table at `path`, overridden by `section.option=value` words.

    A `UserError` says what is wrong with the table, or which run would not start.
    """
    document = read(path)
    merged = command_line.merge(
        settings(document, places.home("torch")), command_line.parse(words, places.home("torch"))
    )
    sweep_options = {"sweep": merged.pop("sweep", {})}
    sweep = build(_Sections, sweep_options, str(path), path.absolute().parent).sweep
    _check(sweep, path)
    axes = _axes(merged)
    bases = [(path.absolute().parent / name).resolve() for name in sweep.base]
    n_runs = len(bases) * len(sweep.twin)
    for axis in axes:
        n_runs *= len(axis.values)
        if n_runs > MAX_RUNS:
            raise UserError(f"{path}: more than {MAX_RUNS} combinations: give fewer values")
    runs = tuple(_runs(path, sweep, bases, axes, places))
    _check_names(runs, path, places)
    return Table(path, sweep, runs)


def _check(sweep: Sweep, path: Path) -> None:
    if not sweep.base or not sweep.twin:
        raise UserError(f"{path}: [sweep] {'base' if sweep.twin else 'twin'} is empty: give at least one")
    for twin in sweep.twin:
        if twin not in ("torch", "jax"):
            raise UserError(f"{path}: [sweep] twin '{twin}' is unknown; it is 'torch' or 'jax'")
    if not re.fullmatch(r"[\w.+-]{1,60}", sweep.name, re.ASCII):
        raise UserError(
            f"{path}: [sweep] name {sweep.name!r} begins folder names: use at most 60 letters, digits, _.+-"
        )


def _axes(merged: Settings) -> list[_Axis]:
    axes = []
    for setting in (setting for section in merged.values() for setting in section.values()):
        if (fold(setting.section), fold(setting.option)) == ("run", "name"):
            raise UserError(
                f"{setting.where} is generated from the values: leave it out, and set [sweep] name"
            )
        value = _value(setting)
        values = tuple(value) if isinstance(value, list | tuple | range) else (value,)
        if not values:
            raise UserError(f"{setting.where} is empty: give at least one value")
        if len(set(map(repr, values))) < len(values):
            raise UserError(f"{setting.where} holds a value twice: keep one")
        axes.append(_Axis(setting, values))
    return axes


def _value(setting: Setting) -> Any:
    """The value of a setting; on the command line it is written as in a file."""
    return Setting(setting.section, setting.option, setting.text, setting.source, setting.base).value()


def _runs(path: Path, sweep: Sweep, bases: list[Path], axes: list[_Axis], places: Places) -> Iterator[Run]:
    documents = {base: read(base) for base in bases}
    for base, twin, *values in product(bases, sweep.twin, *(axis.values for axis in axes)):
        chosen = list(zip(axes, values, strict=True))
        differing = {axis.column: value for axis, value in chosen if len(axis.values) > 1}
        label = {"base": _run_name(documents[base], base)} if len(bases) > 1 else {}
        label |= {"twin": twin} if len(sweep.twin) > 1 and _share_a_folder(places) else {}
        name = _name(sweep.name, label | differing)
        overrides = [_override(axis.setting, value) for axis, value in chosen]
        named = Setting(
            "run", "name", name, overrides[0].source if overrides else "", base, on_command_line=True
        )
        hparams = assemble(documents[base], [*overrides, named], places.home(twin))
        check_options(hparams)
        header = (f"# One run of the table {path.name}. Made by dioscuri sweep; edit the table instead.",)
        text = rewritten(documents[base], [*overrides, named], hparams, header)
        words = tuple(
            f"{axis.column}={setting.text}" for (axis, _), setting in zip(chosen, overrides, strict=True)
        )
        yield Run(name, twin, base, hparams, words, text, {**label, **differing})


def _share_a_folder(places: Places) -> bool:
    """Whether the runs of both twins lie in one folder, where two of the same name would collide."""
    folders = {runs_folder("", places.home(twin)) for twin in ("torch", "jax")}
    return len(folders) == 1


def _run_name(document: Document, base: Path) -> str:
    """The run name in the base, which says more than its file name."""
    name = settings(document, base).get("run", {}).get("name")
    return name.text if name else base.stem


def _override(setting: Setting, value: Any) -> Setting:
    """A setting for one value; a relative path starts from the twin's folder, as in a `.cfg`."""
    return Setting(
        fold(setting.section), fold(setting.option), repr(value), setting.source, setting.base, True
    )


def _name(prefix: str, values: dict[str, Any]) -> str:
    """A run's name, readable if it is short; it does not change when the table grows."""
    parts = [
        f"{column.rpartition('.')[2]}{value}" if column not in ("base", "twin") else value
        for column, value in values.items()
    ]
    name = re.sub(r"[^\w.+-]", "_", "-".join([prefix, *parts]), flags=re.ASCII)
    if len(name) <= _LONGEST_NAME:
        return name
    return f"{prefix}-{sha256(repr(sorted(values.items())).encode()).hexdigest()[:12]}"


def _check_names(runs: Sequence[Run], path: Path, places: Places) -> None:
    seen: dict[Path, Run] = {}
    for run in runs:
        folder = runs_folder(run.hparams.run.root, places.home(run.twin))
        other = seen.setdefault(folder / run.name, run)
        if other is not run:
            raise UserError(
                f"{path}: two runs would be called '{run.name}': {_description(other)} and "
                f"{_description(run)}; write the values so that the names differ"
            )


def _description(run: Run) -> str:
    return f"{run.base} {' '.join(f'{column}={value!r}' for column, value in run.values.items())}".strip()
