"""Generation that is killed and continues, exact counts, and the menu, with an
engine in a few lines of numpy."""

import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from dioscuri.checkpoint.directory import RunDirectory
from dioscuri.context import Context
from dioscuri.errors import UserError
from dioscuri.families.sundae.plan import make_plan
from dioscuri.families.sundae.training import make_sampling_schedule
from dioscuri.families.token_models.modes import encoding, generation, reconstruction
from dioscuri.families.token_models.modes.interactive import MOST_PICTURES, Menu
from dioscuri.outputs.pictures import TEXT_HEIGHT
from dioscuri.outputs.settings import SETTINGS
from tests.support.tiny_sundae import tiny

PIXELS = ("data.dataset_source=digits", "data.grid=8", "data.codebook_size=17")
FILES = {"ema.safetensors": {"sha256": "0"}, "model.safetensors": {"sha256": "1"}}
CHECKPOINT = SimpleNamespace(step=3, path=Path("checkpoints", "step-00000003"), info={"files": FILES})


class Engine:
    """Makes pictures of one grey level, which depends on step, row and class;
    `calls` records its arguments."""

    name = "fake"
    process_index, process_count, device_count = 0, 1, 1

    def __init__(self, killed_after=99):
        self.killed_after, self.calls = killed_after, []

    def barrier(self):
        pass

    def run(self, method, batch, *, step, **arguments):
        if method == "decode":
            return {"image": batch["tokens"].reshape(-1, 8, 8, 1).astype(np.uint8)}
        self.calls.append((step, batch, arguments))
        if len(self.calls) > self.killed_after:
            raise KeyboardInterrupt
        labels = batch.get("label", np.zeros(len(next(iter(batch.values()))), int))
        levels = (17 * step + 5 * labels + np.arange(len(labels))) % 256
        made = {"image": np.tile(levels[:, None, None, None], (1, 8, 8, 1)).astype(np.uint8)}
        made["taken"] = 1 + np.arange(len(labels)) % 3
        if arguments.get("every_step"):
            shape = (len(labels), arguments["sampling"].steps if "sampling" in arguments else 5, 64)
            made |= {"steps": np.zeros(shape, np.int32), "masked": np.zeros(shape, bool)}
            made["steps"] += np.arange(shape[1])[None, :, None]
        return made


def context_of(folder, engine, *overrides):
    return Context(tiny(*PIXELS, *overrides), RunDirectory(folder), None, engine)


def drawn(folder):
    """The pictures' files."""
    return {p.name: p.read_bytes() for p in (folder / "synthesis-images" / "generated").glob("*.png")}


def test_a_killed_generation_continues_and_gives_the_same_pictures(tmp_path, capsys):
    wanted = ("synthesis.n_pictures=10", "synthesis.classes=[3, 1, 7]")
    generation.generate(context_of(tmp_path / "whole", Engine(), *wanted), None, CHECKPOINT)
    with pytest.raises(KeyboardInterrupt):
        generation.generate(context_of(tmp_path / "killed", Engine(1), *wanted), None, CHECKPOINT)
    folder = tmp_path / "killed" / "synthesis-images" / "generated"
    assert json.loads((folder / SETTINGS).read_text())["progress"] == {
        "done": 4,
        "complete": False,
        "drawn": {"steps_taken": 7 / 4},
    }
    engine = Engine()
    generation.generate(context_of(tmp_path / "killed", engine, *wanted), None, CHECKPOINT)
    assert [step for step, _, _ in engine.calls] == [1, 2]
    assert "continuing after 4 pictures" in capsys.readouterr().out
    assert drawn(tmp_path / "killed") == drawn(tmp_path / "whole")
    assert len(drawn(tmp_path / "whole")) == 11
    assert list(json.loads((folder / "labels.json").read_text()).values()) == [3, 1, 7] * 3 + [3]
    settings = json.loads((folder / SETTINGS).read_text())
    progress = {"done": 10, "complete": True, "drawn": {"steps_taken": (7 + 7 + 3) / 10}}
    assert settings["progress"] == progress
    assert settings["options"]["synthesis"]["n_pictures"] == 10


def test_pictures_that_somebody_removed_are_drawn_again(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        generation.generate(context_of(tmp_path, Engine(1)), None, CHECKPOINT)
    (tmp_path / "synthesis-images" / "generated" / "image-0002.png").unlink()
    engine = Engine()
    generation.generate(context_of(tmp_path, engine), None, CHECKPOINT)
    assert [step for step, _, _ in engine.calls] == [0, 1]


def test_a_damaged_picture_of_an_earlier_process_is_named(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        generation.generate(context_of(tmp_path, Engine(1)), None, CHECKPOINT)
    (tmp_path / "synthesis-images" / "generated" / "image-0002.png").write_bytes(b"cut")
    with pytest.raises(UserError, match=r"image-0002\.png is damaged .* generated again"):
        generation.generate(context_of(tmp_path, Engine()), None, CHECKPOINT)


@pytest.mark.parametrize("change", ["synthesis.classes=[2]", "run.seed=4", "synthesis.steps=4"])
def test_other_options_do_not_continue(tmp_path, change):
    with pytest.raises(KeyboardInterrupt):
        generation.generate(context_of(tmp_path, Engine(1)), None, CHECKPOINT)
    engine = Engine()
    generation.generate(context_of(tmp_path, engine, change), None, CHECKPOINT)
    assert [step for step, _, _ in engine.calls] == [0, 1]


@pytest.mark.parametrize("kind", ["gif", "png", "webp"])
def test_a_film_and_a_table_of_every_batch(tmp_path, kind):
    """They end with the last step that a picture of the batch took, here the third of 5."""
    asked = (f"synthesis.film={kind}", "synthesis.n_pictures=6", "synthesis.classes=[3]")
    plan = SimpleNamespace(token_shape=(8, 8))
    generation.generate(context_of(tmp_path, Engine(), *asked), plan, CHECKPOINT)
    folder = tmp_path / "synthesis-images" / "generated"
    assert sorted(path.name for path in folder.glob("[fs]*-0*")) == [
        f"film-0000.{kind}", f"film-0004.{kind}", "steps-0000.csv", "steps-0004.csv"
    ]  # fmt: skip
    with Image.open(folder / f"film-0000.{kind}") as film:
        assert film.is_animated
        levels = []
        for index in range(film.n_frames):
            film.seek(index)
            levels.append(int(np.asarray(film.convert("L"))[film.height // 4, film.width // 4]))
    assert sorted(set(levels)) == [0, 1, 2]
    rows = (folder / "steps-0000.csv").read_text().splitlines()
    assert rows[0] == "step,masked_before,masked_after,written,changed,running"
    assert rows[1:] == ["0,64.0,0.0,64.0,64.0,1.0", "1,0.0,0.0,0.0,64.0,0.5", "2,0.0,0.0,0.0,64.0,0.25"]
    assert (folder / "image-0005.png").exists()


def test_one_sheet_instead_of_files(tmp_path):
    wanted = ("synthesis.sheet_only=True", "synthesis.n_pictures=130", "synthesis.batch_size=50")
    generation.generate(context_of(tmp_path, Engine(), *wanted), None, CHECKPOINT)
    assert list(drawn(tmp_path)) == ["contact-sheet.png"]
    with Image.open(tmp_path / "synthesis-images" / "generated" / "contact-sheet.png") as sheet:
        width, height = sheet.size
        # One row per class, with its caption.
        assert (height - 10 * TEXT_HEIGHT) * 13 == pytest.approx(width * 10, rel=0.02)


def menu(monkeypatch, folder, text, *overrides):
    """The engine's calls while the menu reads the text."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text), encoding="utf-8"))
    engine = Engine()
    context = context_of(folder, engine, *overrides)
    Menu(context, make_plan(context.hparams.model, 8, 17), CHECKPOINT).run()
    return engine.calls


def test_the_menu_draws_what_is_asked_and_remembers_it(tmp_path, monkeypatch, capsys):
    answers = ["1", "6", "9", "0.8", "1e-1", "0.5", "same", "2", "yes", "7", "2", "1", *[""] * 8, "all", "9"]
    calls = menu(monkeypatch, tmp_path, "\n".join([*answers, "1"]).encode(), "synthesis.batch_size=9")
    assert [step for step, _, _ in calls] == [MOST_PICTURES * number for number in (1, 2, 3)]
    for _, _, given in calls:
        assert (given["sampling"].steps, given["sampling"].min_steps, given["every_step"]) == (6, 2, True)
        steps = make_sampling_schedule(given["sampling"])
        np.testing.assert_allclose(steps.temperature, np.linspace(0.8, 0.1, 6), rtol=1e-6)
        np.testing.assert_allclose(steps.proportion, 0.5)
    assert [batch["label"].tolist() for _, batch, _ in calls] == [[7] * 9] * 2 + [[*range(9)]]
    folder = tmp_path / "synthesis-images" / "interactive"
    names = sorted(path.name for path in folder.glob("*.png"))
    drawn = json.loads((folder / SETTINGS).read_text())["progress"]["drawn"]
    assert [drawn[f"000{i}"]["class_index"] for i in (1, 2, 3)] == [7, 7, None]
    assert names == [f"000{i}{end}.png" for i in (1, 2, 3) for end in ("-steps", "")]
    assert "9 pictures in" in capsys.readouterr().out


def test_the_menu_draws_many_pictures_in_batches(tmp_path, monkeypatch):
    answers = ["1", "", "10", *[""] * 7, "9"]
    calls = menu(monkeypatch, tmp_path, "\n".join(answers).encode(), "synthesis.batch_size=4")
    labels = [batch["label"].tolist() for _, batch, _ in calls]
    assert labels == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 0, 1]]
    assert [step for step, _, _ in calls] == [MOST_PICTURES + part for part in range(3)]
    with Image.open(tmp_path / "synthesis-images" / "interactive" / "0001.png") as sheet:
        assert sheet.size[1] * 3 == pytest.approx(sheet.size[0] * 4, rel=0.1)


def test_the_menu_asks_again_for_what_it_cannot_read(tmp_path, monkeypatch, capsys):
    answers = ["1", "0", "x", "-3", "1" * 50, "4", "", "nan", "-1", "inf", "0.5", "", "1.5", "1", "", "9",
               "maybe", "NO", "10", "-1", "3.0", "9"]  # fmt: skip
    ((_, batch, given),) = menu(monkeypatch, tmp_path, "\n".join(answers).encode())
    assert (given["sampling"].steps, given["sampling"].min_steps, given["every_step"]) == (4, 4, False)
    assert batch["label"].tolist() == [9] * 4
    shown = capsys.readouterr().out
    for line in (
        "'x' is no steps: give a whole number from 1 to 65536",
        "'nan' is no temperature: give a number of at least 0",
        "'1.5' is no sample_proportion: give a number from 0 to 1",
        "'maybe' is no history: give yes or no",
        "'10' is no class_index: give a whole number from 0 to 9",
    ):
        assert line in shown


@pytest.mark.parametrize(
    "text",
    [b"", b"\n\n \n", b"x\n7\n", b"\xff\xfe\n\x00\n", b"1\n", b"1\n\n\n\xff\n", b"9\n1\n" + b"\n" * 20],
)
def test_the_menu_ends_with_its_input_whatever_that_is(tmp_path, monkeypatch, text):
    assert not menu(monkeypatch, tmp_path, text)


def test_the_menu_without_classes_asks_for_none(tmp_path, monkeypatch):
    ((_, batch, _),) = menu(monkeypatch, tmp_path, b"2\n9\n", "model.num_classes=0", "data.labels=False")
    assert list(batch) == ["index"]


def test_modes_that_need_pictures_say_so(tmp_path):
    tokens = Context(tiny(), RunDirectory(tmp_path), None, Engine())
    with pytest.raises(UserError, match=r"'tokens' holds no pictures: name some by data.dataset_source"):
        reconstruction.reconstruct(tokens, None, CHECKPOINT)
    with pytest.raises(UserError, match="dataset_source 'tokens' holds tokens already: give pictures"):
        encoding.encode(tokens, None, CHECKPOINT)
    with pytest.raises(UserError, match="grey levels are the tokens"):
        encoding.encode(context_of(tmp_path, Engine()), None, CHECKPOINT)
    engine = Engine()
    engine.process_count = 2
    with pytest.raises(UserError, match="needs a single process"):
        Menu(context_of(tmp_path, engine), None, CHECKPOINT)
