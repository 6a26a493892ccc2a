"""The table of results, and means over seeds."""

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from dioscuri.files import read_json, replacing
from dioscuri.run.logs import SECONDS
from dioscuri.run.sweep.state import State, SweepFolder
from dioscuri.run.sweep.table import Run

SEED = "run.seed"
CURVES = ("EMA_Losses/nelbo", "EMA_Losses/cross_entropy", "EMA_Losses/reconstruction")
"""Validation tags by which families choose their best checkpoint; the first that a run has is plotted."""

MEASURES = ("negative_elbo", "cross_entropy", "reconstruction")
"""Report entries by which runs are compared; the first that a report has counts."""


@dataclass(frozen=True)
class Result:
    """A run's state, its report (nested entries as `a.b`) and its logged lines."""

    run: Run
    state: State
    step: int
    report: dict[str, Any]
    lines: tuple[dict[str, Any], ...]

    @property
    def setting(self) -> str:
        """The run's values without the seed."""
        parts = [str(v) if c == "base" else f"{c}={v}" for c, v in self.run.values.items() if c != SEED]
        return " ".join([*parts, self.run.twin])

    @property
    def training_seconds(self) -> float | None:
        """Seconds of training in the newest line."""
        return next((line[SECONDS] for line in reversed(self.lines) if SECONDS in line), None)

    def tag(self, requested: str) -> str:
        """The tag to plot: the requested one, or the family's default."""
        tags = {tag for line in self.lines if line["split"] == "val" for tag in line}
        return next((tag for tag in ((requested,) if requested else CURVES) if tag in tags), "")

    def measured(self, requested: str) -> dict[str, float]:
        """The report entry by which runs are compared, and the last value of the plotted tag."""
        tag, unit = self.tag(requested), self.report.get("unit", "")
        of_report = next((name for name in MEASURES if name in self.report), None)
        numbers = {f"test {of_report} {unit}".strip(): float(self.report[of_report])} if of_report else {}
        points = self.curve(tag, "step")
        return numbers | ({f"last validation's {tag}": points[-1][1]} if points else {})

    def curve(self, tag: str, over: str) -> list[tuple[float, float]]:
        """(x, value) of the validations; x counts batches, or seconds of training."""
        times = {line["step"]: line[SECONDS] for line in self.lines if SECONDS in line}
        points = [
            (line["step"] if over == "step" else times.get(line["step"]), line.get(tag))
            for line in self.lines
            if line["split"] == "val"
        ]
        return [(float(x), float(y)) for x, y in points if x is not None and y is not None]


def collect(runs: Sequence[Run], folder: SweepFolder) -> list[Result]:
    """The results of all runs."""
    return [
        Result(run, folder.state(run), folder.step(run), _report(run, folder), tuple(_lines(run, folder)))
        for run in runs
    ]


def write_csv(results: Sequence[Result], folder: SweepFolder) -> None:
    """Write `results.csv`: a row per run, whatever its state."""
    rows = [_row(result) for result in results]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    with replacing(folder.path / "results.csv") as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)


def summary(results: Sequence[Result], requested: str) -> list[str]:
    """A line for every setting: mean and deviation over the seeds of its finished runs."""
    lines = []
    for setting in dict.fromkeys(result.setting for result in results):
        of_setting = [r for r in results if r.setting == setting]
        finished = [r for r in of_setting if r.state.state == "finished"]
        parts = [f"{len(finished)} of {len(of_setting)} finished"]
        measured = [r.measured(requested) for r in finished]
        for name in dict.fromkeys(name for numbers in measured for name in numbers):
            parts += [f"{name} {_spread([numbers[name] for numbers in measured if name in numbers])}"]
        lines.append(f"{setting}: {', '.join(parts)}")
    return lines


def _spread(numbers: Sequence[float]) -> str:
    deviation = f" ± {stdev(numbers):.4f}" if len(numbers) > 1 else ""
    return f"{mean(numbers):.4f}{deviation}"


def _row(result: Result) -> dict[str, Any]:
    run, state = result.run, result.state
    seconds = result.training_seconds
    return {
        "run": run.name,
        "twin": run.twin,
        **run.values,
        "state": state.state,
        "starts": state.starts,
        "process_seconds": f"{state.seconds:.1f}",
        "training_seconds": "" if seconds is None else f"{seconds:.1f}",
        "batches": result.step,
        **{_column(name): value for name, value in result.report.items()},
        "message": state.message,
    }


def _column(name: str) -> str:
    """Column of a report entry: all but the model's size are of test pictures."""
    return name if name.startswith("size.") else f"test.{name}"


def _report(run: Run, folder: SweepFolder) -> dict[str, Any]:
    path = folder.directory(run).path / "report.json"
    return dict(_flat(read_json(path, "report"))) if path.exists() else {}


def _flat(report: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in report.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        elif isinstance(value, int | float | str):
            yield f"{prefix}{name}", value


def _lines(run: Run, folder: SweepFolder) -> Iterator[dict[str, Any]]:
    """The lines that a run has logged, without one that is still being written."""
    path = folder.directory(run).metrics
    if path.exists():
        for line in path.read_text(errors="replace").splitlines(keepends=True):
            if line.endswith("\n"):
                yield json.loads(line)
