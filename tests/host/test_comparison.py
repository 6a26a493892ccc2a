"""The comparison of the four families: equal seconds, and its table and figure."""

import csv
from types import SimpleNamespace

import numpy as np
from PIL import Image

from dioscuri.hparams import load
from dioscuri.hparams.reader import read, settings
from tools import compare_families as tool

ENCODING = 5
"""Seconds that egs/sweeps/four_families.sweep counts for encoding the digits."""


def row(family, seed, **numbers):
    pictures = np.zeros((10, 4, 4, 1), np.uint8).tolist()
    known = {"recall": 0.5, "precision": 0.5, "FD-classifier": 2.0, "class_agreement": 0.9}
    return {"family": family, "seed": seed, **known, "samples_per_second": 9, "pictures": pictures, **numbers}


ROWS = [row("maskgit", 1, parameters=1000), row("maskgit", 2, parameters=1000, recall=0.6), row("real", None)]


def test_every_family_has_the_same_seconds_of_computing():
    """Those of token models are less than the others by what the tokenizer takes."""
    bases = settings(read(tool.SWEEP), tool.SWEEP.parent)["sweep"]["base"].value()
    runs = [load(tool.SWEEP.parent / base) for base in bases]
    tokenizer = load(tool.TOKENIZER)
    assert [run.run.family for run in runs] == ["hierarchical_vae", "metroplex", "maskgit", "sundae"]
    assert {run.train.time_limit_clock for run in (*runs, tokenizer)} == {"cpu"}
    before = tokenizer.train.time_limit_in_seconds + ENCODING
    given = {run.run.family: run.train.time_limit_in_seconds for run in runs}
    assert given["hierarchical_vae"] == given["metroplex"] == 120
    assert given["maskgit"] == given["sundae"] == 120 - before
    for run in runs[2:]:
        assert run.data.tokenizer_path == str(tool.tokenizer_run())
    assert tool.tokenizer_run().name == f"logs-{tokenizer.run.name}"


def test_the_table_has_means_and_deviations_over_seeds_and_replaces_that_of_a_page(tmp_path):
    page = tmp_path / "comparison.md"
    lines = tool.table_lines(ROWS)
    cells = dict(
        zip(*([cell.strip() for cell in line.split("|")] for line in (lines[0], lines[2])), strict=True)
    )
    assert (cells["recall"], cells["precision"], cells["parameters"]) == ("0.55 ± 0.07", "0.50", "1,000")
    assert lines[2].startswith("| MaskGIT | - |"), "token models have no likelihood"
    tool.write_table(page, lines)
    assert page.read_text().splitlines() == lines
    page.write_text("# Before\n\n" + page.read_text() + "\nafter\n")
    other = tool.table_lines(ROWS[2:])
    tool.write_table(page, other)
    assert page.read_text() == "# Before\n\n" + "\n".join(other) + "\n\nafter\n"


def test_the_file_has_a_row_for_each_run(tmp_path):
    tool.write_csv(tmp_path / "comparison.csv", ROWS)
    with (tmp_path / "comparison.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["family"], row["seed"], row["recall"]) for row in rows] == [
        ("maskgit", "1", "0.5"),
        ("maskgit", "2", "0.6"),
        ("real", "", "0.5"),
    ]


def test_the_figure_is_a_picture(tmp_path):
    tool.draw(tmp_path / "comparison.png", ROWS)
    with Image.open(tmp_path / "comparison.png") as image:
        assert min(image.size) > 400
        assert len(np.unique(np.asarray(image.convert("L")))) > 10


def test_a_run_is_measured_once_until_it_is_trained_on(tmp_path, monkeypatch):
    measured, steps = [], {"a": 5}
    folder = SimpleNamespace(directory=lambda _: SimpleNamespace(path=tmp_path), step=lambda _: steps["a"])
    run = SimpleNamespace(name="a")
    (tmp_path / f"logs-{tool.CLASSIFIER}").mkdir()
    monkeypatch.setattr(tool, "runs_folder", lambda *_: tmp_path)
    monkeypatch.setattr(tool, "import_module", lambda _: SimpleNamespace(load=lambda path: path))
    monkeypatch.setattr(tool, "facts", lambda *_: {"batches": steps["a"]})
    monkeypatch.setattr(tool, "measures", lambda *_: measured.append(steps["a"]) or {"class_agreement": 0.5})
    monkeypatch.setattr(tool, "real_row", lambda *_: {"family": tool.REAL})
    first, again = (tool.compare([run], folder) for _ in range(2))
    assert first == again == [{"batches": 5, "class_agreement": 0.5}, {"family": tool.REAL}]
    assert measured == [5]
    steps["a"] = 9
    assert tool.compare([run], folder)[0]["batches"] == 9
    assert measured == [5, 9]
    assert tool.compare([], folder) == []
