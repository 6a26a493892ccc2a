"""One table of results, and the mean over seeds of what the runs report."""

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
"""Tags of the validation by which families choose their best checkpoint; of these, a run's first is drawn."""

MEASURES = ("negative_elbo", "cross_entropy", "reconstruction")
"""Numbers of reports by which runs compare; of these, a report's first counts."""


@dataclass(frozen=True)
class Result:
    """What is known of a run: its state, its report (numbers and words, nested ones as `a.b`), its logged
    lines."""

    run: Run
    state: State
    step: int
    report: dict[str, Any]
    lines: tuple[dict[str, Any], ...]

    @property
    def setting(self) -> str:
        """What the run differs in from all but those of other seeds."""
        parts = [str(v) if c == "base" else f"{c}={v}" for c, v in self.run.values.items() if c != SEED]
        return " ".join([*parts, self.run.twin])

    @property
    def training_seconds(self) -> float | None:
        """Seconds of training, as the newest line tells."""
        return next((line[SECONDS] for line in reversed(self.lines) if SECONDS in line), None)

    def tag(self, wanted: str) -> str:
        """The tag to draw: the wanted one, or the family's own."""
        tags = {tag for line in self.lines if line["split"] == "val" for tag in line}
        return next((tag for tag in ((wanted,) if wanted else CURVES) if tag in tags), "")

    def measured(self, wanted: str) -> dict[str, float]:
        """The number of the report by which runs compare, and the last of the drawn ones."""
        tag, unit = self.tag(wanted), self.report.get("unit", "")
        of_report = next((name for name in MEASURES if name in self.report), None)
        found = {f"test {of_report} {unit}".strip(): float(self.report[of_report])} if of_report else {}
        points = self.curve(tag, "step")
        return found | ({f"last validation's {tag}": points[-1][1]} if points else {})

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
    """What is known of all runs."""
    return [
        Result(run, folder.state(run), folder.step(run), _report(run, folder), tuple(_lines(run, folder)))
        for run in runs
    ]


def write_csv(results: Sequence[Result], folder: SweepFolder) -> None:
    """Write `results.csv`: a row a run, whatever its state."""
    rows = [_row(result) for result in results]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    with replacing(folder.path / "results.csv") as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)


def summary(results: Sequence[Result], wanted: str) -> list[str]:
    """A line for every setting: what its finished runs measured, mean and deviation over seeds."""
    lines = []
    for setting in dict.fromkeys(result.setting for result in results):
        of_setting = [r for r in results if r.setting == setting]
        finished = [r for r in of_setting if r.state.state == "finished"]
        told = [f"{len(finished)} of {len(of_setting)} finished"]
        measured = [r.measured(wanted) for r in finished]
        for name in dict.fromkeys(name for found in measured for name in found):
            told += [f"{name} {_spread([found[name] for found in measured if name in found])}"]
        lines.append(f"{setting}: {', '.join(told)}")
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
    """Numbers of a report are of test pictures, but for the model's size."""
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
    """The lines a run has logged; one that is being written is left out."""
    path = folder.directory(run).metrics
    if path.exists():
        for line in path.read_text(errors="replace").splitlines(keepends=True):
            if line.endswith("\n"):
                yield json.loads(line)
