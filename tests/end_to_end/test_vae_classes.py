"""VAEs with classes from the command line: train, sample classes, encode and decode, in both twins."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from tests.support.tiny import write_tiny
from tests.support.twins import TWINS, call, pictures

pytestmark = pytest.mark.slow
CLASSES = ("data.labels=True", "model.num_classes=10", "loss.cond_dropout_prob=0.2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a run `tiny` of PyTorch after 3 batches."""
    folder = tmp_path_factory.mktemp("classes")
    cfg = write_tiny(folder)
    call("train", folder / "torch_impl", cfg, *CLASSES, "train.total_train_steps=3")
    return folder


@pytest.fixture
def twins(folder, tmp_path):
    """Both twins' folders with that run, to be written into."""
    shutil.copy(folder / "tiny.cfg", tmp_path)
    for name in TWINS:
        shutil.copytree(folder / "torch_impl" / "logs-tiny", tmp_path / name / "logs-tiny")
    return [tmp_path / name for name in TWINS]


def modes(twin, mode, *words):
    cfg = twin.parent / "tiny.cfg"
    call("synthesize", twin, cfg, *CLASSES, f"synthesis.synthesis_mode={mode}", *words)
    return twin / "logs-tiny" / "synthesis-images"


def test_a_run_judges_its_samples_and_shows_them_by_class(folder):
    run = folder / "torch_impl" / "logs-tiny"
    report = json.loads((run / "report.json").read_text())
    assert 0 <= report["class_agreement"] <= 1
    with Image.open(run / "validation-images" / "00000003-val-classes.png") as image:
        labelled = image.size
    with Image.open(run / "samples.png") as image:
        assert image.height > 10 * 8
    assert labelled[1] > 10 * 16  # a row of captions a class
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert {line["step"] for line in lines if line["split"] == "train"} == {1, 2, 3}


@pytest.mark.parametrize("number", range(2), ids=TWINS)
def test_asked_classes_are_drawn_and_named(twins, number):
    twin = twins[number]
    words = ("synthesis.classes=[3,7]", "synthesis.temperature_settings=[1.]")
    images = modes(twin, "generation", *words)
    labels = json.loads((images / "generated" / "labels.json").read_text())
    assert list(labels.values()) == [3, 7] * 4
    assert sorted(labels) == sorted(path.stem for path in (images / "generated").glob("setup-*.png"))
    plain = pictures(images / "generated", "setup-*.png")
    shutil.rmtree(images)
    modes(twin, "generation", *words, "synthesis.guidance_scale=30.")
    assert (pictures(images / "generated", "setup-*.png") != plain).any()


def test_encodings_carry_their_classes_to_either_twin(twins):
    everything = ("synthesis.variate_masks_quantile=1", "synthesis.output=mean")
    reading = (*everything, "synthesis.split=test")
    first, second = twins
    images = modes(first, "reconstruction", *reading)
    modes(first, "encoding", *reading)
    modes(first, "decoding", *everything)
    decoded, reconstructed = (pictures(images / name) for name in ("decoded", "reconstructed"))
    np.testing.assert_array_equal(decoded, reconstructed)
    assert (modes(first, "partial", *reading) / "partial" / "contact-sheet.png").exists()
    encodings = first / "logs-tiny" / "latents" / "encodings_seed_3"
    images = modes(second, "decoding", *everything, f"synthesis.encodings_path={encodings}")
    assert np.abs(pictures(images / "decoded").astype(int) - decoded).max() <= 1


@pytest.mark.parametrize(
    ("job", "words", "says"),
    [
        ("train", ("data.labels=False",), "labels must be True for a model of 10 classes"),
        ("train", ("model.num_classes=9", "run.name=nine"), "has class 9: raise it to 10"),
        ("synthesize", ("synthesis.classes=[3,10]",), "[synthesis] classes holds 10: the model has 10"),
        (
            "synthesize",
            ("loss.cond_dropout_prob=0.", "synthesis.guidance_scale=1."),
            "needs a model also trained without classes",
        ),
        ("synthesize", ("synthesis.guidance_scale=-1.",), "guidance_scale must be at least 0"),
    ],
)
def test_what_does_not_fit_is_one_line(folder, capsys, job, words, says):
    with pytest.raises(SystemExit) as stopped:
        call(job, folder / "torch_impl", folder / "tiny.cfg", *CLASSES, *words)
    error = capsys.readouterr().err.strip()
    assert stopped.value.code == 2
    assert says in error
    assert "\n" not in error
