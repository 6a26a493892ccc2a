"""Splitting, resizing and converting folders of pictures."""

import numpy as np
import pytest
from PIL import Image

from data_scripts import convert, random_split, utility_resize
from dioscuri.data import open_datasets
from dioscuri.errors import UserError
from tests.support.data_options import make_options, paths
from tests.support.web_server import picture_bytes


def make_pictures(folder, sizes, suffix=".png"):
    folder.mkdir(exist_ok=True)
    for number, size in enumerate(sizes):
        kind = {".png": "PNG", ".jpg": "JPEG"}[suffix]
        (folder / f"{number}{suffix}").write_bytes(picture_bytes(size, number, kind))
    return folder


def test_random_split_moves_the_same_pictures_every_time(tmp_path):
    moved = []
    for name in ("a", "b"):
        source = make_pictures(tmp_path / name, [(2, 2)] * 12)
        random_split.main([str(source), str(tmp_path / f"{name}_val"), "4"])
        moved.append({path.name for path in (tmp_path / f"{name}_val").iterdir()})
        assert len(list(source.iterdir())) == 8
    assert moved[0] == moved[1]
    assert len(moved[0]) == 4


def test_random_split_refuses_to_empty_or_overwrite(tmp_path):
    source = make_pictures(tmp_path / "a", [(2, 2)] * 3)
    for n in ("0", "3", "-1"):
        with pytest.raises(UserError, match="moving"):
            random_split.main([str(source), str(tmp_path / "val"), n])
    make_pictures(tmp_path / "val", [(2, 2)] * 3)
    with pytest.raises(UserError, match="nothing was moved"):
        random_split.main([str(source), str(tmp_path / "val"), "2"])
    assert len(list(source.iterdir())) == 3


def resize(source, target, kind, *more, resolution=4):
    utility_resize.main(
        [
            "--in-path",
            str(source),
            "--out-path",
            str(target),
            "--resize-type",
            kind,
            "--resolution",
            str(resolution),
            *more,
        ]
    )
    return {path.name: np.asarray(Image.open(path)) for path in target.iterdir()}


def test_center_crop_scales_the_central_square(tmp_path):
    source = make_pictures(tmp_path / "in", [(8, 12), (3, 3)])
    results = resize(source, tmp_path / "out", "center_crop")
    assert {name: picture.shape for name, picture in results.items()} == {
        "0.png": (4, 4, 3),
        "1.png": (4, 4, 3),
    }
    square = Image.open(source / "0.png").crop((0, 2, 8, 10))
    np.testing.assert_array_equal(results["0.png"], square.resize((4, 4), Image.Resampling.BILINEAR))


def test_reshape_scales_both_sides(tmp_path):
    source = make_pictures(tmp_path / "in", [(8, 12)])
    results = resize(source, tmp_path / "out", "reshape")
    expected = Image.open(source / "0.png").resize((4, 4), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(results["0.png"], expected)


def test_random_crops_are_windows_with_names_of_their_own(tmp_path):
    source = make_pictures(tmp_path / "in", [(9, 7)], suffix=".jpg")
    results = resize(source, tmp_path / "out", "random_crop", "--repeat-n", "3")
    assert sorted(results) == ["0_re00.png", "0_re01.png", "0_re02.png"]
    whole = np.asarray(Image.open(source / "0.jpg"))
    windows = np.lib.stride_tricks.sliding_window_view(whole, (4, 4), axis=(0, 1)).transpose(0, 1, 3, 4, 2)
    for picture in results.values():
        assert (windows == picture).all(axis=(2, 3, 4)).any()
    again = resize(source, tmp_path / "again", "random_crop", "--repeat-n", "3")
    assert all((again[name] == results[name]).all() for name in results)
    with pytest.raises(UserError, match=r"0\.jpg: is 9x7, too small"):
        resize(source, tmp_path / "big", "random_crop", resolution=8)


def test_resizing_overwrites_nothing(tmp_path):
    source = make_pictures(tmp_path / "in", [(5, 5)])
    make_pictures(tmp_path / "in", [(5, 5)], suffix=".jpg")
    with pytest.raises(UserError, match=r"0\.png exists"):
        resize(source, tmp_path / "out", "reshape")


@pytest.mark.parametrize("channels", [1, 3])
def test_a_folder_becomes_npy_and_back(tmp_path, channels):
    source = make_pictures(tmp_path / "in", [(6, 6), (4, 5)])
    target = tmp_path / "all.npy"
    convert.main(["to-npy", str(source), str(target), "--resolution", "5", "--channels", str(channels)])
    folder = open_datasets(make_options("custom", 5, channels, **paths(source))).train
    mapped = open_datasets(make_options("npy", 5, channels, **paths(target))).train
    np.testing.assert_array_equal(mapped.gather([0, 1]), folder.gather([0, 1]))
    convert.main(["to-folder", str(target), str(tmp_path / "back")])
    back = open_datasets(make_options("custom", 5, channels, **paths(tmp_path / "back"))).train
    np.testing.assert_array_equal(back.gather([0, 1]), folder.gather([0, 1]))
    with pytest.raises(UserError, match="not empty"):
        convert.main(["to-folder", str(target), str(tmp_path / "back")])


def test_a_failed_conversion_leaves_no_file(tmp_path):
    source = make_pictures(tmp_path / "in", [(6, 6)])
    (source / "1.png").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"1\.png: not an image"):
        convert.main(["to-npy", str(source), str(tmp_path / "x.npy"), "--resolution", "4"])
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
