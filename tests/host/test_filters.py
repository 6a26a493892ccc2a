"""Pictures that are left out by size, watermark, aesthetic and NSFW score, and by their owners' wish."""

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from dioscuri.data import open_datasets
from dioscuri.data.facts import AESTHETIC, number
from dioscuri.data.folders import open_pictures
from dioscuri.errors import UserError
from tests.support.data_options import make_options, paths

SIDE = 8
GOOD = {"pwatermark": 0.1, "aesthetic": 6, "p_nsfwdf": 0.01, "is_spawning": False, "is_getty": False}
FACTS = {
    "a": GOOD,
    "b": GOOD | {"pwatermark": 0.9, "aesthetic": 4, "p_nsfwdf": 0.6, "is_spawning": True, "is_getty": True},
    "c": {},
    "d": {
        "stability_metadata": {"p_watermarkdf": 0.5, "aes_scorelv2": 5, "p_nsfwdf": 0.5},
        "is_getty": False,
    },
    "e": GOOD | {"original_width": 4, "original_height": 400, "aesthetic": "high", "pwatermark": True},
}


def content(size=(20, 16)):
    made = io.BytesIO()
    Image.fromarray(np.zeros((size[1], size[0]), np.uint8)).save(made, "png")
    return made.getvalue()


def write(folder, source):
    files = {f"{name}.png": content((20, 12) if name == "c" else (20, 16)) for name in FACTS}
    files |= {f"{name}.json": json.dumps(facts).encode() for name, facts in FACTS.items()}
    folder.mkdir()
    if source == "custom":
        for name, data in files.items():
            (folder / name).write_bytes(data)
    else:
        with tarfile.open(folder / "0.tar", "w") as tar:
            for name in sorted(files):
                info = tarfile.TarInfo(name)
                info.size = len(files[name])
                tar.addfile(info, io.BytesIO(files[name]))
    return folder


@pytest.fixture(scope="module", params=["custom", "webdataset"])
def made(request, tmp_path_factory):
    folder = write(tmp_path_factory.mktemp("pictures") / request.param, request.param)
    return lambda **more: make_options(request.param, SIDE, 1, **paths(folder), **more)


OPTED_OUT, GETTY = "require_marked_as_ok_by_spawning", "require_marked_as_not_getty"
RULES = [
    ({}, "abcde", {}),
    ({"min_size": 13}, "abd", {"narrower or lower than 13 pixels (min_size)": 2}),
    (
        {"max_pwatermark": 0.5},
        "ad",
        {"without watermark (max_pwatermark)": 2, "with watermark above 0.5 (max_pwatermark)": 1},
    ),
    (
        {"min_aesthetic_score": 5.0},
        "ad",
        {
            "without aesthetic score (min_aesthetic_score)": 2,
            "with aesthetic score below 5 (min_aesthetic_score)": 1,
        },
    ),
    ({"max_pnsfw": 0.0, "min_size": 5}, "", {}),
    (
        {"max_pnsfw": 0.5},
        "ade",
        {"with NSFW score above 0.5 (max_pnsfw)": 1, "without NSFW score (max_pnsfw)": 1},
    ),
    (
        {OPTED_OUT: True},
        "ae",
        {f"without is_spawning ({OPTED_OUT})": 2, f"with is_spawning ({OPTED_OUT})": 1},
    ),
    (
        {GETTY: True, "min_size": 5},
        "ad",
        {
            f"with is_getty ({GETTY})": 1,
            f"without is_getty ({GETTY})": 1,
            "narrower or lower than 5 pixels (min_size)": 1,
        },
    ),
]


@pytest.mark.parametrize(("rules", "names", "counts"), RULES, ids=lambda value: str(value)[:40])
def test_pictures_that_fail_a_rule_are_left_out_and_counted(made, rules, names, counts):
    options = made(**rules)
    if not names:
        with pytest.raises(
            UserError, match=r"train_data_path: 5 of 5 pictures are left out: .*; loosen these"
        ):
            _ = open_datasets(options).train
        return
    train = open_datasets(options).train
    assert [key.removesuffix(".png") for key in train.keys] == list(names)
    assert train.gather(range(len(names))).shape == (len(names), SIDE, SIDE, 1)
    listed = ", ".join(f"{count} {reason}" for reason, count in counts.items())
    note = f"{5 - len(names)} of 5 pictures are left out: {listed}"
    assert train.notes == ((note,) if counts else ())


def test_a_picture_that_the_user_names_is_not_left_out(tmp_path):
    folder = write(tmp_path / "pictures", "custom")
    options = make_options("custom", SIDE, 1, **paths(folder), max_pnsfw=0.0)
    assert len(open_pictures(options, str(folder / "c.png"), "--image")) == 1


@pytest.mark.parametrize(
    ("facts", "value"),
    [
        ({"aesthetic": "n/a", "AESTHETIC_SCORE": 5.5}, 5.5),
        ({"aesthetic": float("nan"), "AESTHETIC_SCORE": "5.5"}, 5.5),
        ({"aesthetic": True}, None),
        ({"aesthetic": "inf"}, None),
    ],
)
def test_the_first_number_counts(facts, value):
    assert number(facts, AESTHETIC) == value
