"""`dioscuri evaluate`: one clear line for a mistake."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dioscuri.errors import UserError
from tests.support.evaluated import digits, run, write_folder

ROOT = Path(__file__).parents[2]

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
    "clips.npy": digits(0, 8).reshape(4, 2, 4, 4, 1),
    "longer.npy": digits(0, 12).reshape(4, 3, 4, 4, 1),
    "long.npy": digits(0, 8, side=70).reshape(4, 2, 70, 70, 1),
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
    write_folder(folder / "animated", digits(0, 5))
    frames = [Image.fromarray(picture[..., 0]) for picture in digits(0, 3)]
    frames[0].save(folder / "animated" / "0009.gif", save_all=True, append_images=frames[1:])
    return folder


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "the following arguments are required: SAMPLES, REFERENCE; usage: dioscuri evaluate"),
        (
            "features.npy features.npy --what",
            "unrecognized arguments: --what (did you mean '--weights'?); usage",
        ),
        ("nowhere features.npy", "nowhere does not exist: give a folder of pictures, a .npy or an .npz file"),
        ("nothing features.npy", "nothing: holds no pictures; they must lie directly in it"),
        ("text.npy features.npy", "text.npy: neither a folder nor a numpy array file (it is none)"),
        ("archive.npz features.npy", "archive.npz: has neither pictures 'arr_0' nor statistics"),
        ("objects.npy features.npy", "objects.npy: neither a folder nor a numpy array file"),
        ("numbers.npy features.npy", "numbers.npy: holds float64 (9,), neither floating-point features"),
        ("labels.npy features.npy", "labels.npy: holds int64 (9,), neither floating-point features"),
        ("empty.npy features.npy", "empty.npy: holds nothing"),
        ("features.npy nan.npy", "nan.npy: features are not all finite"),
        ("features.npy wide.npy", "feature widths 5 and 6 differ"),
        ("features.npy pictures.npy", "one holds features, the other pictures; give two of the same kind"),
        ("few.npy features.npy", "few.npy: give at least 4 examples, not 3"),
        ("features.npy few.npy --k 3", "few.npy: give at least 4 examples, not 3"),
        ("features.npy features.npy --k 0", "--k must be 1 or more"),
        ("features.npy features.npy --k x", "invalid int value: 'x'"),
        (
            "features.npy features.npy --extractor inception",
            "of width 5 are not Inception's (2048)",
        ),
        ("features.npy features.npy --extractor a/b", "--extractor 'a/b' must be a name"),
        ("features.npy features.npy --logits few.npy", "few.npy: holds float64 (3, 5), not 9 rows"),
        ("features.npy features.npy --logits nan.npy", "not 9 rows of finite logits"),
        ("features.npy features.npy --labels labels.npy", "belong together: give both or neither"),
        (
            "features.npy features.npy --labels short.npy --reference-labels labels.npy",
            "short.npy: 8 labels do not fit the 9 examples",
        ),
        (
            "features.npy features.npy --labels bad.json --reference-labels labels.npy",
            "bad.json: not a table of names and labels",
        ),
        (
            "features.npy features.npy --labels features.npy --reference-labels labels.npy",
            "holds float64 (9, 5), not one integer per picture",
        ),
        (
            "pictures.npy others.npy",
            "others.npy, picture 0: is 5x5, not 4x4 as the first picture",
        ),
        ("features.npy features.npy --resize 4", "--resize is for pictures: leave it out"),
        ("features.npy features.npy --weights x", "--weights is for pictures: leave it out"),
        ("features.npy features.npy --samples 9", "--samples belongs to --ood MODEL"),
        ("pictures.npy pictures.npy --logits few.npy", "--logits is for feature files"),
        (
            "pictures.npy pictures.npy --weights x",
            "--weights is only for --extractor inception, dinov2, clip",
        ),
        ("pictures.npy pictures.npy --extractor nowhere", "does not exist: train that run first"),
        ("pictures.npy pictures.npy --extractor nothing", "holds 0 files hparams-<name>.cfg"),
        ("large.npy large.npy", "pictures of 4900 values are too large to compare by pixels"),
        ("long.npy long.npy", "clips of 9800 values are too large to compare by pixels (at most 4096)"),
        ("clips.npy clips.npy --resize 8", "clips can only be compared by their pixels"),
        ("pictures.npy clips.npy --extractor inception", "clips.npy: clips can only be compared by their"),
        ("clips.npy pictures.npy", "one holds clips (T, H, W) = (2, 4, 4), the other pictures; give two of"),
        ("pictures.npy clips.npy", "one holds pictures, the other clips (T, H, W) = (2, 4, 4); give two of"),
        ("clips.npy longer.npy", "(2, 4, 4), the other clips (T, H, W) = (3, 4, 4); give two of the same"),
        ("animated animated", "0009.gif: is an animation, not a picture; compare clips as .npy files"),
        ("mixed mixed", "other.png: is 4x5, not 4x4 as the first picture"),
        ("broken broken", "0003.png: not an image; repair or remove it"),
    ],
)
def test_bad_input_is_one_clear_line(files, monkeypatch, words, message):
    monkeypatch.chdir(files)
    with pytest.raises(UserError) as refused:
        run(*words.split())
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def script(folder, *words):
    return subprocess.run(
        [sys.executable, "-m", "dioscuri", "evaluate", *words],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_script_ends_with_one_line_and_code_2(files):
    done = script(files, "nowhere", "features.npy")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: nowhere does not exist: give a folder of pictures, a .npy or an .npz file\n"


def test_the_script_helps(files):
    done = script(files, "--help")
    assert done.returncode == 0
    assert "SAMPLES and REFERENCE are folders of pictures" in done.stdout


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"mu": np.zeros(3), "sigma": np.eye(4)}, "not (D,) and (D, D)"),
        ({"mu": np.zeros(3), "sigma": np.full((3, 3), np.nan)}, "are not all finite"),
        ({"mu": np.zeros(3), "sigma": -np.eye(3)}, "sigma is not a covariance"),
        ({"mu": np.zeros(3), "sigma": np.triu(np.ones((3, 3)))}, "sigma is not a covariance"),
        ({"mu": np.array(["a"]), "sigma": np.array([["a"]])}, "not floats"),
        ({"arr_0": np.zeros((3, 4, 4, 3))}, "neither floating-point features"),
        ({"arr_0": np.zeros((0, 4, 4, 3), np.uint8)}, "holds nothing"),
    ],
)
def test_archives_that_hold_something_else(tmp_path, arrays, message):
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(UserError) as refused:
        run(tmp_path / "bad.npz", tmp_path / "bad.npz")
    assert message in str(refused.value)
