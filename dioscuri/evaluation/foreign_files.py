"""A report on foreign pictures as a table, and as files: JSON, CSV and histograms."""

import csv
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from dioscuri.evaluation.foreign import KNOWN, ForeignReport
from dioscuri.files import replacing, write_json

REPORT, SCORES = "report.json", "scores.csv"
_BINS = 40
_UNITS = {"likelihood": "-log p(x), nats", "ratio": "L - L>k, nats", "complexity": "-log2 p(x) - L(x), bits"}


def table(report: ForeignReport) -> Iterator[str]:
    """Lines of a table: how every score separates every foreign set."""
    width = max(len(name) for name in ("foreign", *report.foreign))
    yield f"{'foreign':{width}}  pictures  {'score':15}   AUROC    AUPR   FPR95"
    for name, by_score in report.separations().items():
        for score in report.shown():
            s = by_score[score]
            n = len(report.foreign[name])
            yield f"{name:{width}}  {n:>8}  {score:15}  {s.auroc:.4f}  {s.aupr:.4f}  {s.fpr95:.4f}"


def choice(report: ForeignReport) -> Iterator[str]:
    """Lines that say how k was chosen, if it was."""
    if report.choice:
        means = np.mean([*report.choice.values()], axis=0)
        values = ", ".join(f"{k}: {value:.4f}" for k, value in enumerate(means, 1))
        yield f"k:       {report.k}, by the mean AUROC of altered known pictures for every k, {values}"


def summary(report: ForeignReport) -> dict[str, Any]:
    """The report for JSON: numbers of pictures, the choice of k, and every measure of every score."""
    measures = {
        name: {score: asdict(s) for score, s in by_score.items()}
        for name, by_score in report.separations().items()
    }
    sets = {
        name: {
            "pictures": len(scores),
            "share": len(scores) / (len(scores) + len(report.known)),
            "scores": measures[name],
        }
        for name, scores in report.foreign.items()
    }
    chosen = {name: auroc.tolist() for name, auroc in report.choice.items()}
    return {"known": len(report.known), "k": report.k, "choice": chosen, "foreign": sets}


def write_report(
    folder: Path, report: ForeignReport, settings: dict[str, Any], name_of: Callable[[str, int], str]
) -> None:
    """Write `scores.csv`, a histogram of every score, and at last `report.json`. `name_of` gives the name of
    a picture, from its set and its number there."""
    _write_scores(folder / SCORES, report, name_of)
    for score in report.shown():
        _write_histogram(folder / f"{score}.png", report, score)
    write_json(folder / REPORT, summary(report) | settings)


def _write_scores(path: Path, report: ForeignReport, name_of: Callable[[str, int], str]) -> None:
    with replacing(path) as beside, beside.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["set", "picture", *report.known.columns()])
        for row in report.rows():
            name, index, *scores = row.values()
            writer.writerow([name, name_of(name, index), *scores])


def _write_histogram(path: Path, report: ForeignReport, score: str) -> None:
    from matplotlib.figure import Figure  # noqa: PLC0415 - most of a second to import, for charts only

    sets = {KNOWN: report.known, **report.foreign}
    values = {name: scores.columns()[score] for name, scores in sets.items()}
    figure = Figure(figsize=(7.0, 3.5), dpi=120, layout="constrained")
    draw_histogram(figure.subplots(), values, score)
    with replacing(path) as beside:
        figure.savefig(beside, format="png")


def draw_histogram(axes: Any, values: dict[str, np.ndarray], score: str) -> None:
    """Densities of a score of known and foreign sets. Bins end where 1 % of all values lie outside."""
    low, high = np.quantile(np.concatenate([*values.values()]), [0.005, 0.995])
    bins = np.linspace(low, high if high > low else low + 1, _BINS + 1)
    for number, (name, scores) in enumerate(values.items()):
        style = {"histtype": "stepfilled", "alpha": 0.35} if name == KNOWN else {"histtype": "step"}
        axes.hist(scores.clip(low, high), bins, density=True, label=name, color=f"C{number}", **style)
    axes.set_xlabel(f"{score}: {_UNITS[score.partition('_')[0]]}; higher is more foreign")
    axes.set_yticks([])
    axes.legend()
