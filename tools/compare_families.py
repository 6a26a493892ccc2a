"""Train the four families for equally long on the same digits, and compare what they draw.

    python tools/compare_families.py [section.option=value ...] [--to FOLDER] [--results]

Trains the tokenizer of egs/vqgan/four_families.cfg, encodes the digits, trains every run of
egs/sweeps/four_families.sweep, seed by seed, and measures the finished ones. Repeated, it continues where it
was interrupted. Runs lie where `dioscuri train` puts those of the PyTorch twin, each on one thread. FOLDER,
by default that of the sweep, receives comparison.csv, one row a run, comparison.png, and the table of
comparison.md, which is replaced where the file exists. Overrides are options of every run, such as
data.dataset_path="'FOLDER'" or train.time_limit_in_seconds=5; --results trains nothing.
"""

import argparse
import csv
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from importlib import import_module
from itertools import dropwhile
from pathlib import Path
from statistics import mean, stdev
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from dioscuri.environment import enter_environment

    enter_environment()

import numpy as np

from dioscuri.checkpoint import store
from dioscuri.checkpoint.directory import RunDirectory
from dioscuri.cli.convert import main as convert
from dioscuri.errors import run_command
from dioscuri.files import read_json, replacing, write_json
from dioscuri.places import examples, here, runs_folder
from dioscuri.run.sweep.state import SweepFolder
from dioscuri.run.sweep.table import Run, open_table
from tools.shipped_numbers import evaluated, pictures_of

Array = np.ndarray
Row = dict[str, Any]

TOKENIZER = examples() / "vqgan" / "four_families.cfg"
SWEEP = examples() / "sweeps" / "four_families.sweep"
CLASSIFIER = "mnist10k-classifier"
N_SAMPLES, N_CLASSES, N_TIMED = 1000, 10, 100
REAL = "training pictures"
"""Row of the comparison of real pictures with real pictures: what a perfect model would get."""

COLUMNS = {
    "bits_per_dim": ("bits/dim", ".3f"),
    "FD-classifier": ("FD", ".2f"),
    "KD-classifier": ("KD", ".2f"),
    "precision": ("precision", ".2f"),
    "recall": ("recall", ".2f"),
    "density": ("density", ".2f"),
    "coverage": ("coverage", ".2f"),
    "class_agreement": ("class agreement", ".1%"),
    "samples_per_second": ("samples/s", ".0f"),
    "parameters": ("parameters", ",.0f"),
    "megabytes": ("memory, MB", ".0f"),
    "batches": ("batches", ",.0f"),
    "cpu_seconds": ("CPU seconds", ".0f"),
}
"""Columns of the table: heading and format of each number of a row."""


def main(words: Sequence[str]) -> None:
    """Train what is not trained yet, and write the comparison."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", nargs="*", metavar="section.option=value")
    parser.add_argument("--to", type=Path, metavar="FOLDER")
    parser.add_argument("--results", action="store_true", help="train nothing")
    chosen = parser.parse_intermixed_args(words)
    if not chosen.results:
        train_tokenizer(chosen.overrides)
    table = open_table(SWEEP, chosen.overrides, here())
    folder = SweepFolder(here(), table.sweep.name)
    if not chosen.results:
        for run in sorted(table.runs, key=lambda run: run.hparams.run.seed):
            if not folder.is_finished(run):
                dioscuri("sweep", SWEEP, *chosen.overrides, "--run", run.key)
    to = chosen.to or folder.path
    to.mkdir(parents=True, exist_ok=True)
    finished = [run for run in table.runs if folder.is_finished(run)]
    rows = compare(finished, folder)
    write_csv(to / "comparison.csv", rows)
    write_table(to / "comparison.md", table_lines(rows))
    draw(to / "comparison.png", rows)


def train_tokenizer(overrides: Sequence[str]) -> None:
    """Train the tokenizer and encode the three splits; what is done already is not done again."""
    if not (tokenizer_run() / "report.json").is_file():
        dioscuri("train", TOKENIZER, *overrides)
    for split in ("train", "validation", "test"):
        if not (tokenizer_run() / "latents" / f"tokens_{split}" / "settings.json").is_file():
            words = ("synthesis.synthesis_mode=encoding", f"synthesis.split={split}")
            dioscuri("synthesize", TOKENIZER, *overrides, *words)


def tokenizer_run() -> Path:
    """The folder of the tokenizer's run."""
    return runs_folder("", here().home("torch")) / "logs-tokenizer_four_families"


def dioscuri(*words: str | Path) -> None:
    """Run a command of Dioscuri on one thread; a `CalledProcessError` if it fails."""
    one_thread = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(here().programs)}
    command = [sys.executable, "-P", "-m", "dioscuri", *map(str, words)]
    subprocess.run(command, env=os.environ | one_thread, check=True)


def compare(runs: Sequence[Run], folder: SweepFolder) -> list[Row]:
    """A row for each run, one for real pictures, and the samples for the figure under `pictures`."""
    judge = runs_folder("", here().home("torch")) / f"logs-{CLASSIFIER}"
    if not judge.is_dir():
        convert([CLASSIFIER, "--run", str(judge)])
    load = import_module("dioscuri.torch").load
    classifier, rows = load(CLASSIFIER), []
    for run in runs:
        file = folder.directory(run).path / "comparison.json"
        row = read_json(file, "row of the comparison") if file.is_file() else {}
        if row.get("batches") != folder.step(run):  # not measured yet, or trained on since
            model = load(folder.directory(run).path)
            row = {**facts(run, folder, model), **measures(model, classifier, judge)}
            write_json(file, row)
        rows.append(row)
        print(f"{run.name}: class agreement {row['class_agreement']:.1%}", flush=True)
    return [*rows, real_row(load(folder.directory(runs[0]).path), classifier, judge)] if runs else []


def facts(run: Run, folder: SweepFolder, model: Any) -> Row:
    """What training took, with that of the tokenizer, and the size of the model."""
    directory = folder.directory(run)
    report = read_json(directory.path / "report.json", "report")
    info = store.load(directory.checkpoints, groups=()).info
    seconds, size = info["cpu_seconds"], model.num_parameters
    if model.tokenizer is not None:
        seconds += store.load(RunDirectory(tokenizer_run()).checkpoints, groups=()).info["cpu_seconds"]
        size += model.tokenizer.num_parameters
    return {
        "family": run.hparams.run.family,
        "seed": run.hparams.run.seed,
        "batches": info["step"],
        "cpu_seconds": seconds,
        "parameters": size,
        "megabytes": report["memory"]["peak"] / 1e6,
    }


def measures(model: Any, classifier: Any, judge: Path) -> Row:
    """What `dioscuri evaluate` says of samples of all classes, against the test pictures, and their speed."""
    test = pictures_of_model(model).test
    pictures, labels = test.gather(np.arange(len(test))), np.asarray(test.labels)
    asked = np.arange(N_SAMPLES) % N_CLASSES
    model.generate(classes=asked[:N_TIMED], seed=1)  # allocates what later calls use again
    since = time.process_time()
    made = model.generate(classes=asked, seed=0)
    seconds = time.process_time() - since
    row: Row = {"bits_per_dim": None}
    if "bound" in model.does:
        row["bits_per_dim"] = float(model.bound(pictures, classes=labels, seed=0).bits_per_dim)
    return {
        **row,
        **evaluated(made, pictures, "--extractor", str(judge)),
        "class_agreement": float(np.mean(classifier.classify(made) == asked)),
        "samples_per_second": N_SAMPLES / seconds,
        "pictures": made[:N_CLASSES].tolist(),
    }


def pictures_of_model(model: Any) -> Any:
    """The digits that the model, or its tokenizer, was trained on."""
    seen = model if model.tokenizer is None else model.tokenizer
    return pictures_of(model, Path(seen.hparams.data.dataset_path))


def real_row(model: Any, classifier: Any, judge: Path) -> Row:
    """As many training pictures as samples, in place of samples."""
    sets = pictures_of_model(model)
    chosen = np.linspace(0, len(sets.train) - 1, N_SAMPLES).astype(int)
    train, test = sets.train.gather(chosen), sets.test.gather(np.arange(len(sets.test)))
    labels = np.asarray(sets.train.labels)[chosen]
    first = [int(np.flatnonzero(labels == digit)[0]) for digit in range(N_CLASSES)]
    return {
        "family": REAL,
        "seed": None,
        **evaluated(train, test, "--extractor", str(judge)),
        "class_agreement": float(np.mean(classifier.classify(test) == sets.test.labels)),
        "pictures": train[first].tolist(),
    }


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """A row a run, with all numbers."""
    columns = ["family", "seed", *COLUMNS]
    with replacing(path) as beside, beside.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def table_lines(rows: Sequence[Row]) -> list[str]:
    """The table in Markdown: a row a family, mean and standard deviation over its seeds."""
    headings = ["", *(heading for heading, _ in COLUMNS.values())]
    lines = [" | ".join(headings), "|".join(["---"] * len(headings))]
    for family, of_family in by_family(rows):
        cells = [family_name(family)]
        for name, (_, form) in COLUMNS.items():
            cells.append(_cell([row[name] for row in of_family if row.get(name) is not None], form))
        lines.append(" | ".join(cells))
    return [f"|{line}|" if "---" in line else f"| {line} |" for line in lines]


def _cell(numbers: Sequence[float], form: str) -> str:
    if not numbers:
        return "-"
    deviation = f" ± {stdev(numbers):{form}}" if len(set(numbers)) > 1 else ""
    return f"{mean(numbers):{form}}{deviation}"


def by_family(rows: Sequence[Row]) -> Iterator[tuple[str, list[Row]]]:
    """The rows of each family, in order."""
    for family in dict.fromkeys(row["family"] for row in rows):
        yield family, [row for row in rows if row["family"] == family]


def family_name(family: str) -> str:
    """How a page names a family."""
    names = {"hierarchical_vae": "hierarchical VAE", "metroplex": "Metroplex", "maskgit": "MaskGIT"}
    return names.get(family, family.upper() if family == "sundae" else family)


def write_table(path: Path, lines: Sequence[str]) -> None:
    """Write the table, in place of that of the page if there is one."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    head, header, rest = text.partition(f"{lines[0]}\n")
    rows = dropwhile(lambda line: line.startswith("|"), rest.splitlines(keepends=True))
    text = "".join([head, *(f"{line}\n" for line in lines), *rows]) if header else "\n".join(lines) + "\n"
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")


def draw(path: Path, rows: Sequence[Row]) -> None:
    """Ten samples of each family's first seed, and three numbers of every run in the colours of the names."""
    from matplotlib.figure import Figure  # most of a second to import

    families = list(by_family(rows))
    figure = Figure(figsize=(9.0, 6.0), dpi=120, layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(len(families), 4.5))
    strips = above.subplots(len(families), 1, squeeze=False)[:, 0]
    charts = below.subplots(1, 3)
    for number, (family, of_family) in enumerate(families):
        colour = "black" if family == REAL else f"C{number}"
        _strip(strips[number], of_family[0], family_name(family), colour)
        for axes, (x, y) in zip(charts, _CHARTS, strict=True):
            points = [(row[x], row[y]) for row in of_family if x in row]
            axes.plot(*zip(*points, strict=True), "o", color=colour) if points else None
    for axes, (x, y) in zip(charts, _CHARTS, strict=True):
        axes.set(xlabel=_LABELS[x], ylabel=_LABELS[y], yscale="log" if y == "FD-classifier" else "linear")
        axes.yaxis.set_minor_formatter("")
        axes.grid(visible=True, alpha=0.3)
    with replacing(path) as beside:
        figure.savefig(beside, format="png")


_CHARTS = (
    ("recall", "precision"),
    ("class_agreement", "FD-classifier"),
    ("samples_per_second", "FD-classifier"),
)
_LABELS = {
    "recall": "recall",
    "precision": "precision",
    "class_agreement": "class agreement",
    "FD-classifier": "FD, lower is better",
    "samples_per_second": "samples per second of computing",
}


def _strip(axes: Any, row: Row, name: str, colour: str) -> None:
    """A picture of each class side by side, with the family's name in its colour."""
    axes.imshow(np.concatenate(np.array(row["pictures"])[..., 0], 1), cmap="gray", vmin=0, vmax=255)
    axes.set_ylabel(name, rotation=0, ha="right", va="center", color=colour)
    axes.set(xticks=[], yticks=[])


if __name__ == "__main__":
    run_command(main)
