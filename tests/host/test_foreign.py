"""Measures of how scores separate foreign pictures, their stand-ins, the choice of k, and bits of files."""

import io

import numpy as np
import pytest
from PIL import Image

from dioscuri.evaluation.foreign import ForeignReport, ForeignScores, altered, choose_k
from dioscuri.evaluation.foreign_files import table, write_report
from dioscuri.metrics.complexity import file_bits
from dioscuri.metrics.separation import separation


def counted(known, foreign):
    """The measures by their definitions, from counts of pictures at every threshold."""
    pairs = np.sign(foreign[:, None] - known).mean()
    thresholds = np.unique(np.concatenate([known, foreign]))[::-1]
    true = np.array([(foreign >= t).mean() for t in thresholds])
    false = np.array([(known >= t).mean() for t in thresholds])
    hits = true * len(foreign)
    precision = hits / (hits + false * len(known))
    average = (np.diff(true, prepend=0) * precision).sum()
    return (pairs + 1) / 2, average, false[true >= 0.95][0]


@pytest.mark.parametrize("ties", [False, True])
def test_measures_are_those_of_all_pairs_and_all_thresholds(ties):
    rng = np.random.default_rng(0)
    known, foreign = rng.normal(size=41), rng.normal(0.5, size=20)
    if ties:
        known, foreign = known.round(), foreign.round()
    got = separation(known, foreign)
    assert (got.auroc, got.aupr, got.fpr95) == pytest.approx(counted(known, foreign))
    assert got.auroc > 0.5


def test_higher_scores_are_foreign():
    low, high = np.arange(5.0), np.arange(5.0, 9)
    right, wrong = separation(low, high), separation(high, low)
    assert (right.auroc, right.aupr, right.fpr95) == (1, 1, 0)
    assert (wrong.auroc, wrong.fpr95) == (0, 1)
    nothing = separation(np.ones(6), np.ones(2))
    assert (nothing.auroc, nothing.aupr, nothing.fpr95) == (0.5, 0.25, 1)


def test_stand_ins_are_altered_pictures_of_the_same_kind():
    pictures = np.random.default_rng(1).integers(0, 256, (6, 10, 9, 3), np.uint8)
    made = altered(pictures, seed=3)
    assert set(made) == {"means of two", "tiles", "speckles"}
    for name, each in made.items():
        assert each.dtype == np.uint8
        assert each.shape == pictures.shape
        assert (each != pictures).any((1, 2, 3)).all()
        np.testing.assert_array_equal(each, altered(pictures, seed=3)[name])
    assert (made["tiles"] != altered(pictures, seed=4)["tiles"]).any()
    for before, after in zip(pictures, made["tiles"], strict=True):
        np.testing.assert_array_equal(np.sort(after, axis=None), np.sort(before, axis=None))
    both = (pictures[0].astype(int) + pictures[-1]) // 2
    np.testing.assert_array_equal(made["means of two"][0], both)


def test_the_best_k_separates_known_pictures_from_their_stand_ins():
    known = np.zeros((10, 3))
    stand_ins = {"a": np.tile([-1.0, 1, 1], (10, 1)), "b": np.tile([1.0, 1, 1], (10, 1))}
    k, by_name = choose_k(known, stand_ins)
    assert k == 2  # as good as 3, and the smaller
    assert by_name["a"].tolist() == [0, 1, 1]


def test_bits_are_those_of_lossless_files():
    flat = np.full((16, 16, 3), 7, np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    for kind in ("PNG", "WEBP"):
        assert file_bits(flat, kind) < 16 * 16 * 3 * 8 < file_bits(noise, kind)
    file = io.BytesIO()
    Image.fromarray(noise[..., 0]).save(file, "PNG", optimize=True)
    assert file_bits(noise[..., :1], "PNG") == 8 * len(file.getvalue())


def scores(seed, n, ratios=2):
    rng = np.random.default_rng(seed)
    columns = [rng.normal(size=n) for _ in range(3)]
    return ForeignScores(columns[0], rng.normal(size=(n, ratios)), *columns[1:], np.arange(n))


def test_a_report_shows_the_chosen_ratio_and_the_shorter_file(tmp_path):
    report = ForeignReport(scores(0, 9), {"near": scores(1, 4), "far": scores(2, 5)}, k=2, choice={})
    lines = list(table(report))
    assert [line.split()[0] for line in lines] == ["foreign", *["near"] * 5, *["far"] * 5]
    assert [line.split()[2] for line in lines[1:6]] == [
        *("likelihood", "ratio_2", "complexity_png", "complexity_webp", "complexity")
    ]
    columns = report.known.columns()
    np.testing.assert_array_equal(
        columns["complexity"], np.maximum(columns["complexity_png"], columns["complexity_webp"])
    )
    write_report(tmp_path / "new", report, {}, lambda name, index: f"{name}/{index}")
    rows = (tmp_path / "new" / "scores.csv").read_text().splitlines()
    assert len(rows) == 1 + 9 + 4 + 5
    assert rows[10].startswith("near,near/0,")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == sorted(
        ["report.json", "scores.csv", *(f"{name}.png" for name in report.shown())]
    )
