"""`dioscuri evaluate`: what it prints of folders and feature files, and one clear line for a mistake."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dioscuri.cli.evaluate import evaluate
from dioscuri.errors import UserError
from dioscuri.metrics.frechet import frechet_distance, moments
from dioscuri.metrics.inception_score import inception_score
from dioscuri.metrics.kernel import kernel_distance
from dioscuri.metrics.manifold import compare_manifolds
from dioscuri.outputs.settings import SETTINGS

ROOT = Path(__file__).parents[2]


def no_engine(twin, hparams):
    raise AssertionError(f"no engine is needed, yet {twin} was asked for {hparams}")


def run(*words):
    evaluate([str(word) for word in words], no_engine)


def table(path, *words):
    """The numbers that a command line writes to a JSON file."""
    run(*words, "--json", path)
    return json.loads(path.read_text())


def digits(seed, n, side=4, channels=1):
    """Random pictures uint8 (N, H, W, C)."""
    return np.random.default_rng(seed).integers(0, 256, (n, side, side, channels), np.uint8)


def write_folder(folder, pictures):
    folder.mkdir()
    for i, picture in enumerate(pictures):
        Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture).save(folder / f"{i:04d}.png")
    return folder


def write_npy(path, array):
    np.save(path, array)
    return path


@pytest.fixture
def sets(tmp_path):
    """Two folders of grey pictures, and the pictures as features."""
    samples, reference = digits(0, 30), digits(1, 40)
    folders = (write_folder(tmp_path / name, part) for name, part in (("made", samples), ("real", reference)))
    return *folders, samples.reshape(30, -1), reference.reshape(40, -1)


def test_metrics_of_folders_are_those_of_their_pixels(sets, tmp_path, capsys):
    made, real, samples, reference = sets
    found = table(tmp_path / "out.json", made, real, "--k", 5, "--seed", 3)
    values = {name: measure["value"] for name, measure in found["metrics"].items()}
    ratios = compare_manifolds(samples, reference, k=5)
    expected = {
        "FD-pixels": frechet_distance(moments(samples), moments(reference)),
        "KD-pixels": kernel_distance(samples, reference, subset_size=30, seed=3)[0],
        "precision": ratios.precision,
        "recall": ratios.recall,
        "density": ratios.density,
        "coverage": ratios.coverage,
    }
    assert values.pop("nearest") > 0
    assert values == pytest.approx(expected)
    assert (found["samples"], found["reference"], found["seed"]) == (30, 40, 3)
    printed = capsys.readouterr().out
    assert f"samples:   30 of {made}" in printed
    assert "FD-pixels" in printed
    assert "FID" not in printed
    assert "note:" not in printed


def test_pictures_of_files_and_of_arrays_are_the_same(sets, tmp_path):
    made, real, samples, _ = sets
    array = write_npy(tmp_path / "made.npy", samples.reshape(30, 4, 4))
    left, right = (table(tmp_path / "out.json", one, real)["metrics"] for one in (made, array))
    assert left == right


def test_the_contact_sheet_is_no_sample_and_the_sampling_is_told(sets, tmp_path, capsys):
    made, real, _, _ = sets
    Image.new("L", (50, 70)).save(made / "contact-sheet.png")
    settings = {"run": "tiny", "options": {"data": {"seed": 1}, "synthesis": {"steps": 8}}}
    (made / SETTINGS).write_text(json.dumps(settings | {"progress": {"done": 30, "complete": True}}))
    found = table(tmp_path / "out.json", made, real)
    assert (found["samples"], found["sampling"]) == (30, settings)
    assert "sampling:  run=tiny, steps=8" in capsys.readouterr().out


def test_grey_samples_are_compared_with_colours(sets, tmp_path):
    made, _, samples, _ = sets
    colours = digits(2, 20, channels=3)
    found = table(tmp_path / "out.json", made, write_folder(tmp_path / "colours", colours))
    grey_as_rgb = np.repeat(samples, 3, axis=1)
    expected = frechet_distance(moments(grey_as_rgb), moments(colours.reshape(20, -1)))
    assert found["metrics"]["FD-pixels"]["value"] == pytest.approx(expected)


def test_only_inception_features_give_an_fid(tmp_path, capsys):
    random = np.random.default_rng(0)
    first, second = (write_npy(tmp_path / f"{i}.npy", random.normal(size=(12, 2048))) for i in range(2))
    logits = write_npy(tmp_path / "logits.npy", random.normal(size=(12, 7)))
    words = (first, second, "--logits", logits)
    named = table(tmp_path / "out.json", *words, "--extractor", "dinov2")["metrics"]
    inception = table(tmp_path / "out.json", *words, "--extractor", "inception")["metrics"]
    assert {"FD-dinov2", "KD-dinov2", "IS-dinov2"} < set(named)
    assert {"FID", "KID", "IS"} < set(inception)
    assert inception["FID"]["value"] == named["FD-dinov2"]["value"]
    score = inception_score(np.load(logits), splits=10, seed=0)
    assert (inception["IS"]["value"], inception["IS"]["deviation"]) == pytest.approx(score)
    assert "no more examples than the 2048 features" in capsys.readouterr().out


def test_class_agreement_is_that_of_a_vote(tmp_path):
    """Clusters of two classes; a quarter of the samples lies in the other class's cluster."""
    random = np.random.default_rng(0)
    labels = np.arange(40) % 2
    reference = random.normal(size=(40, 3)) + 100 * labels[:, None]
    lies_in = labels[:16].copy()
    lies_in[:4] = 1 - lies_in[:4]
    samples = random.normal(size=(16, 3)) + 100 * lies_in[:, None]
    asked = tmp_path / "labels.json"
    asked.write_text(json.dumps({f"image-{i:04d}": int(label) for i, label in enumerate(labels[:16])}))
    found = table(
        tmp_path / "out.json",
        write_npy(tmp_path / "s.npy", samples),
        write_npy(tmp_path / "r.npy", reference),
        "--labels",
        asked,
        "--reference-labels",
        write_npy(tmp_path / "l.npy", labels),
    )
    assert found["metrics"]["class agreement"]["value"] == 0.75


FILES = {
    "features.npy": np.zeros((9, 5)),
    "wide.npy": np.zeros((9, 6)),
    "few.npy": np.zeros((3, 5)),
    "nan.npy": np.full((9, 5), np.nan),
    "numbers.npy": np.zeros(9),
    "empty.npy": np.zeros((0, 5)),
    "pictures.npy": digits(0, 9),
    "others.npy": digits(0, 9, side=5),
    "large.npy": digits(0, 4, side=70),
    "labels.npy": np.zeros(9, np.int64),
    "short.npy": np.zeros(8, np.int64),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    for name, array in FILES.items():
        np.save(folder / name, array)
    (folder / "text.npy").write_text("no array")
    (folder / "bad.json").write_text("[3")
    np.savez(folder / "archive.npz", a=np.zeros(3))
    np.save(folder / "objects.npy", np.array([{}]), allow_pickle=True)
    (folder / "nothing").mkdir()
    write_folder(folder / "mixed", digits(0, 5))
    Image.new("L", (5, 4)).save(folder / "mixed" / "other.png")
    write_folder(folder / "broken", digits(0, 5))
    (folder / "broken" / "0003.png").write_bytes(b"foreign")
    return folder


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "the following arguments are required: SAMPLES, REFERENCE; usage: dioscuri evaluate"),
        (
            "features.npy features.npy --what",
            "unrecognized arguments: --what (did you mean '--weights'?); usage",
        ),
        ("nowhere features.npy", "nowhere does not exist: give a folder of pictures or a .npy file"),
        ("nothing features.npy", "nothing: holds no pictures; they must lie directly in it"),
        ("text.npy features.npy", "text.npy: neither a folder nor a numpy array file"),
        ("archive.npz features.npy", "archive.npz: an .npz archive; give a folder"),
        ("objects.npy features.npy", "objects.npy: neither a folder nor a numpy array file"),
        ("numbers.npy features.npy", "numbers.npy: holds float64 (9,), neither floating-point features"),
        ("labels.npy features.npy", "labels.npy: holds int64 (9,), neither floating-point features"),
        ("empty.npy features.npy", "empty.npy: holds nothing"),
        ("features.npy nan.npy", "nan.npy: features are not all finite"),
        ("features.npy wide.npy", "features of 5 and 6 numbers cannot be compared"),
        ("features.npy pictures.npy", "one holds features, the other pictures; give two of a kind"),
        ("few.npy features.npy", "few.npy: 3 examples are too few, give 4 or more"),
        ("features.npy few.npy --k 3", "few.npy: 3 examples are too few, give 4 or more"),
        ("features.npy features.npy --k 0", "--k must be 1 or more"),
        ("features.npy features.npy --k x", "invalid int value: 'x'"),
        (
            "features.npy features.npy --extractor inception",
            "of 5 numbers are not Inception's, which have 2048",
        ),
        ("features.npy features.npy --extractor a/b", "--extractor 'a/b' must be a name"),
        ("features.npy features.npy --logits few.npy", "few.npy: holds float64 (3, 5), not 9 rows"),
        ("features.npy features.npy --logits nan.npy", "not 9 rows of finite logits"),
        ("features.npy features.npy --labels labels.npy", "belong together: give both or neither"),
        (
            "features.npy features.npy --labels short.npy --reference-labels labels.npy",
            "short.npy: 8 labels do not belong to the 9 examples",
        ),
        (
            "features.npy features.npy --labels bad.json --reference-labels labels.npy",
            "bad.json: no table of names and labels",
        ),
        (
            "features.npy features.npy --labels features.npy --reference-labels labels.npy",
            "holds float64 (9, 5), not a whole number for each picture",
        ),
        ("pictures.npy others.npy", "others.npy: pictures are 5x5x1, not 4x4x1"),
        ("pictures.npy pictures.npy --logits few.npy", "--logits belongs to feature files"),
        ("pictures.npy pictures.npy --weights x", "--weights belongs to --extractor inception, dinov2, clip"),
        ("pictures.npy pictures.npy --extractor nowhere", "does not exist: give the folder logs-<name>"),
        ("pictures.npy pictures.npy --extractor nothing", "holds 0 files hparams-<name>.cfg"),
        ("large.npy large.npy", "pictures of 4900 values are too large to be compared pixel by pixel"),
        ("mixed mixed", "other.png: is 4x5, not 4x4 as the first picture"),
        ("broken broken", "0003.png: not an image; mend or remove it"),
    ],
)
def test_bad_input_is_one_clear_line(files, monkeypatch, words, message):
    monkeypatch.chdir(files)
    with pytest.raises(UserError) as refused:
        run(*words.split())
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_script_ends_with_one_line_and_code_2(files):
    command = [sys.executable, "-m", "dioscuri", "evaluate", "nowhere", "features.npy"]
    done = subprocess.run(
        command,
        cwd=files,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: nowhere does not exist: give a folder of pictures or a .npy file\n"


def test_the_script_helps(files):
    command = [sys.executable, "-m", "dioscuri", "evaluate", "--help"]
    done = subprocess.run(
        command,
        cwd=files,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert "SAMPLES and REFERENCE are folders of pictures" in done.stdout
