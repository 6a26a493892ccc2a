"""Logs, grids and command lines."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dioscuri.cli.runs import parse, synthesize_command, train_command
from dioscuri.errors import UserError, run_command
from dioscuri.outputs.pictures import (
    GROUND,
    TEXT_HEIGHT,
    above,
    by_class,
    grid,
    in_rows,
    save_grid,
    save_picture,
    sheet,
)
from dioscuri.outputs.wording import noun
from dioscuri.places import examples
from dioscuri.run.logs import JsonLines, Sheets
from dioscuri.run.tensorboard import TensorBoard
from dioscuri.twins import open_twin


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_json_lines_after_a_resume_hold_every_step_once(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = JsonLines(path, step=0)
    for step in range(1, 6):
        log.scalars("train", step, {"loss": float(step)})
    log.close()
    with path.open("a") as file:
        file.write('{"step": 6, "split"')
    log = JsonLines(path, step=3)
    log.scalars("train", 4, {"loss": float("nan")})
    log.close()
    assert [line["step"] for line in lines(path)] == [1, 2, 3, 4]
    assert lines(path)[-1]["loss"] is None


def test_tensorboard_files_hold_scalars_histograms_and_pictures(tmp_path):
    log = TensorBoard(tmp_path, step=0)
    log.scalars("train", 1, {"Losses/nelbo": 2.5})
    log.histograms("val", 1, {"Distributions/output": np.arange(9.0)})
    log.images("val", 1, {"1/Original_1": np.zeros((4, 5, 1), np.uint8)})
    log.close()
    train, val = (EventAccumulator(str(tmp_path / split)).Reload() for split in ("train", "val"))
    assert [(event.step, event.value) for event in train.Scalars("Losses/nelbo")] == [(1, 2.5)]
    assert val.Tags()["histograms"] == ["Distributions/output"]
    assert val.Images("1/Original_1")[0].width == 5


def test_grid_places_pictures_in_order(tmp_path):
    pictures = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 1), np.uint8)
    sheet = grid(in_rows(pictures, 3))
    assert sheet.shape == (7, 10, 1)
    assert [sheet[1, 1, 0], sheet[1, 4, 0], sheet[1, 7, 0], sheet[4, 1, 0], sheet[4, 4, 0]] == [0, 1, 2, 3, 4]
    assert [row[0, 0, 0, 0] for row in above(pictures, pictures + 10, 3)] == [0, 10, 3, 13]
    with Image.open(save_grid(tmp_path / "grid.png", in_rows(pictures, 3))) as image:
        assert image.mode == "L"
        assert min(image.size) > 100


@pytest.mark.parametrize(("n", "columns"), [(1, 1), (4, 2), (10, 3), (60, 8), (100, 10)])
def test_grids_are_as_square_as_their_number_allows(n, columns):
    rows = in_rows(np.zeros((n, 8, 8, 1), np.uint8))
    assert {len(row) for row in rows[:-1]} <= {columns}
    assert len(rows[0]) == columns
    waveforms = in_rows(np.zeros((n, 500, 1), np.uint8))  # four times as wide as high
    assert len(waveforms[0]) <= columns


def test_originals_above_others_are_square_together():
    pictures = np.zeros((32, 8, 8, 1), np.uint8)
    assert [len(row) for row in above(pictures, pictures)] == [8] * 8


def test_classes_stand_in_rows_under_their_names():
    pictures = np.arange(60, dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 8, 1), np.uint8)
    rows, captions = by_class(pictures, np.arange(60) % 10)
    assert [row[:, 0, 0, 0].tolist() for row in rows[:2]] == [[*range(0, 60, 10)], [*range(1, 60, 10)]]
    assert captions[:2] == [["class 0"], ["class 1"]]
    rows, captions = by_class(pictures, np.full(60, 3))
    assert ([len(row) for row in rows], captions) == ([8] * 7 + [4], [["class 3"], *[[]] * 7])
    rows, captions = by_class(pictures[:4], np.array([7, 1, 0, 2]))
    assert captions == [["7", "1"], ["0", "2"]], "one of each: a name above each"


@pytest.mark.parametrize("shape", [(6, 8, 8, 1), (6, 8, 8, 3), (6, 2, 8, 8, 1), (6, 100, 1)])
def test_captions_leave_the_pictures_as_they_are(shape):
    examples = np.random.default_rng(0).integers(0, 100, shape, dtype=np.uint8)
    rows = in_rows(examples, 3)
    plain, named = sheet(rows), sheet(rows, [["temperature 0.8"], []])
    assert (named[TEXT_HEIGHT:] == plain).all()
    strip = named[:TEXT_HEIGHT]
    assert strip.shape[1:] == plain.shape[1:]
    assert (strip > GROUND + 50).any(), "there is text"


@pytest.mark.parametrize(
    ("source", "word"),
    [
        ("digits", "pictures"),
        ("tokens", "pictures"),
        ("wav", "sounds"),
        ("frames", "clips"),
        ("text", "texts"),
    ],
)
def test_examples_are_called_what_they_are(source, word):
    assert noun(SimpleNamespace(data=SimpleNamespace(dataset_source=source))) == word


def test_sheets_of_validations_are_files_beside_their_settings(tmp_path):
    log = Sheets(tmp_path / "validation-images", {"run": "tiny"})
    log.images("val", 500, {"500/Partial_500": np.zeros((4, 5, 1), np.uint8)})
    log.close()
    names = sorted(path.name for path in (tmp_path / "validation-images").iterdir())
    assert names == ["00000500-val-partial.png", "settings.json"]


@pytest.mark.parametrize(("channels", "name"), [(1, "a.png"), (3, "a.png"), (4, "a.npy")])
def test_pictures_of_any_channels_are_written_whole(tmp_path, channels, name):
    picture = np.random.default_rng(0).integers(0, 256, (3, 2, channels), dtype=np.uint8)
    path = save_picture(tmp_path, "a", picture)
    assert path.name == name
    found = np.load(path) if name.endswith("npy") else np.asarray(Image.open(path))
    assert (found.reshape(picture.shape) == picture).all()


def test_command_line_is_split_into_its_parts():
    words = ["my.cfg", "run.name=x", "--resume-from", "../logs-y", "model.up_strides=[1, 2]"]
    found = parse(words, resumes=True)
    assert (found.cfg, found.resume_from) == (Path("my.cfg"), Path("../logs-y"))
    assert found.overrides == ("run.name=x", "model.up_strides=[1, 2]")
    assert parse([], resumes=False).cfg == (examples() / "hierarchical_vae/digits.cfg")


@pytest.mark.parametrize("word", ["-h", "--help"])
@pytest.mark.parametrize("command", [train_command, synthesize_command])
def test_help_prints_the_usage(capsys, tmp_path, command, word):
    command(open_twin("torch"), tmp_path, [word])
    assert capsys.readouterr().out.startswith("usage: [CFG]")
    assert not list(tmp_path.iterdir())


def test_a_mistake_is_reported_in_one_line(capsys):
    def main(_):
        raise UserError("a\nb\x1b.png é")

    with pytest.raises(SystemExit):
        run_command(main, [])
    assert capsys.readouterr().err == "error: a\\nb\\x1b.png é\n"


@pytest.mark.parametrize(
    "words", [["--verbose"], ["a.cfg", "b.cfg"], ["name=x"], ["--resume-from"], ["--resume-from="]]
)
def test_wrong_command_line_ends_with_the_usage(words):
    with pytest.raises(UserError, match=r"usage: \[CFG\]"):
        parse(words, resumes=True)
