"""Which files a path names: patterns, braces, lists, links and hidden names, the same for every source."""

import io
import os
import tarfile

import numpy as np
import pytest
from PIL import Image

from dioscuri.data import open_datasets
from dioscuri.data.listing import find_files
from dioscuri.errors import UserError
from tests.support.data_options import make_options, paths
from tests.support.signals import tone, write_wav

SUFFIXES = (".png",)


def touch(*files):
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(str(file).encode())


def names(text, root):
    return [str(path.relative_to(root)) for path in find_files(text, SUFFIXES, "[data] x")]


def test_a_file_counts_once_whatever_links_lead_to_it(tmp_path):
    touch(tmp_path / "p/sub/0.png", tmp_path / "p/1.png")
    (tmp_path / "p/sub/up").symlink_to("..")
    (tmp_path / "p/a").symlink_to("sub")
    (tmp_path / "p/z.png").symlink_to("1.png")
    os.link(tmp_path / "p/1.png", tmp_path / "p/2.png")
    files = find_files(f"{tmp_path}/p/**/*.png", SUFFIXES, "[data] x")
    assert [str(path.relative_to(tmp_path)) for path in files] == ["p/1.png", "p/sub/0.png"]
    assert "left out 2 further names of the same files" in files.notes[0]
    assert names(f"{tmp_path}/p", tmp_path) == ["p/1.png"]
    assert names([f"{tmp_path}/p", f"{tmp_path}/p/*.png", f"{tmp_path}/p"], tmp_path) == ["p/1.png"]


def test_brackets_and_braces_of_existing_folders_are_literal(tmp_path):
    touch(tmp_path / "[2023] trip/a.png", tmp_path / "2 trip/b.png", tmp_path / "{x,y}/c.png")
    assert names(f"{tmp_path}/[2023] trip/*.png", tmp_path) == ["[2023] trip/a.png"]
    assert names(f"{tmp_path}/[12] trip/*.png", tmp_path) == ["2 trip/b.png"]
    assert names(f"{tmp_path}/{{x,y}}/*.png", tmp_path) == ["{x,y}/c.png"]
    touch(tmp_path / "q/[2024] b/d.png")
    assert names(f"{tmp_path}/*/[2024]*/*.png", tmp_path) == ["q/[2024] b/d.png"]


def test_braces_are_numbers_and_alternatives(tmp_path):
    touch(*(tmp_path / f"w/{n:03d}.png" for n in range(12)), tmp_path / "v/x.png")
    assert names(f"{tmp_path}/w/{{008..010}}.png", tmp_path) == ["w/008.png", "w/009.png", "w/010.png"]
    assert names([f"{tmp_path}/w/{{000,01*}}.png", f"{tmp_path}/v"], tmp_path) == [
        "v/x.png",
        "w/000.png",
        "w/010.png",
        "w/011.png",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{000..003}.png", r"2 of 4 files do not exist: .*002.png, .*003.png"),
        ("{0..9999999999}.png", "expands to more than 1000000 names"),
        ("{0..999}{0..999}{0..999}.png", "expands to more than 1000000 names"),
        ("none/*.png", "holds no files"),
        ("none", "does not exist"),
        ("x" * 5000, "does not exist"),
        ("pipe.png", "neither a regular file nor a folder"),
        ("000.png/*.png", "is not a folder"),
    ],
)
def test_paths_that_lead_nowhere(tmp_path, text, message):
    touch(tmp_path / "000.png", tmp_path / "001.png")
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(UserError, match=message):
        find_files(f"{tmp_path}/{text}", SUFFIXES, "[data] x")


def write_png(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 4), 9, np.uint8)).save(path)


def write_tar(path):
    with tarfile.open(path, "w") as archive:
        stream = io.BytesIO()
        Image.fromarray(np.full((4, 4), 9, np.uint8)).save(stream, format="PNG")
        info = tarfile.TarInfo("0.png")
        info.size = len(stream.getvalue())
        archive.addfile(info, io.BytesIO(stream.getvalue()))


WRITERS = {
    "custom": ("png", write_png, {}),
    "glob": ("png", write_png, {}),
    "webdataset": ("tar", write_tar, {}),
    "npy": ("npy", lambda path: np.save(path, np.zeros((1, 4, 4, 1), np.uint8)), {}),
    "imagenet": ("npz", lambda path: np.savez(path, data=np.zeros((1, 48), np.uint8)), {}),
    "wav": (
        "wav",
        lambda path: write_wav(path, tone(4)),
        {"sample_rate": 8000, "sample_encoding": "mu_law"},
    ),
    "frames": ("png", write_png, {"frames": 1}),
}


@pytest.mark.parametrize("source", WRITERS)
def test_every_source_passes_over_hidden_names_links_and_what_is_no_file(tmp_path, source):
    suffix, write, data = WRITERS[source]
    folder = tmp_path / "set"
    inner = folder / "recording" if source == "frames" else folder
    inner.mkdir(parents=True)
    write(inner / f"0.{suffix}")
    (inner / f"._0.{suffix}").write_bytes(b"\0\5\x16\7" + bytes(60))
    (inner / f"folder.{suffix}").mkdir()
    os.mkfifo(inner / f"pipe.{suffix}")
    (inner / f"9.{suffix}").symlink_to(f"0.{suffix}")
    if source == "frames":
        (folder / ".hidden").mkdir()
        (folder / "again").symlink_to("recording")
    options = make_options(source, 4, 3 if source == "imagenet" else 1, **paths(folder), **data)
    assert len(open_datasets(options).train) == 1
