"""Latent folders of sundae-vqgan become token shards."""

from shutil import rmtree

import numpy as np
import pytest

from data_scripts.import_latents import main, string_order
from dioscuri.data.tokens import open_tokens
from dioscuri.errors import UserError


def write(folder, n, *, first=0, sides="rl", length=16, codes=9):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(first, first + n):
        for side in sides:
            tokens = (np.arange(length, dtype=np.int64) + i + 3 * (side == "l")) % codes
            np.save(folder / f"{i:06d}.{side}.npy", tokens)
    return folder


def imported(tmp_path, *words, codes=9):
    main([str(tmp_path / "latents"), str(tmp_path / "out"), "--codebook-size", str(codes), *words])
    return open_tokens(tmp_path / "out")


def test_pictures_and_their_mirror_images(tmp_path):
    write(tmp_path / "latents", 5)
    actual = imported(tmp_path, "--pictures", "1:4")
    assert list(actual.keys) == [f"00000{i}.{side}.npy" for i in (1, 2, 3) for side in "lr"]
    assert (actual.grid, actual.codebook_size, actual.labels) == ((4, 4), 9, None)
    np.testing.assert_array_equal(actual.gather([1])[0].reshape(-1), (np.arange(16) + 1) % 9)


def test_classes_keep_both_orders(tmp_path):
    for label in range(12):
        write(tmp_path / "latents" / str(label), 1, first=label, sides="r")
    actual = imported(tmp_path)
    assert actual.labels.tolist() == list(range(12))
    order = [0, 1, 10, 11, 2, 3, 4, 5, 6, 7, 8, 9]
    assert actual.header["string_order"] == order == string_order(range(12))
    main([str(tmp_path / "latents"), str(tmp_path / "old"), "--codebook-size", "9", "--legacy-classes"])
    assert [order[label] for label in open_tokens(tmp_path / "old").labels] == list(range(12))


@pytest.mark.parametrize("span", ["0:6", "6:12", "3:5"])
def test_a_range_of_pictures_keeps_the_order_of_all_classes(tmp_path, span):
    """Pictures are numbered class by class, so that a range holds few of the classes."""
    for label in range(12):
        write(tmp_path / "latents" / str(label), 1, first=label, sides="r")
    actual = imported(tmp_path, "--legacy-classes", "--pictures", span)
    order = [0, 1, 10, 11, 2, 3, 4, 5, 6, 7, 8, 9]
    assert actual.header["string_order"] == order
    labels = dict(zip(actual.keys, actual.labels.tolist(), strict=True))
    low, high = map(int, span.split(":"))
    assert labels == {f"{i}/{i:06d}.r.npy": order.index(i) for i in range(low, high)}


def test_folders_of_classes_are_ranked_among_themselves(tmp_path, capsys):
    for i, label in enumerate((0, 2, 10)):
        write(tmp_path / "latents" / str(label), 1, first=i, sides="r")
    assert imported(tmp_path).labels.tolist() == [0, 2, 10]
    assert "no folder of class 1: labels skip it" in capsys.readouterr().out
    main([str(tmp_path / "latents"), str(tmp_path / "old"), "--codebook-size", "9", "--legacy-classes"])
    old = open_tokens(tmp_path / "old")
    assert (old.labels.tolist(), old.header["string_order"]) == ([0, 2, 1], [0, 10, 2])
    assert "no folder of class 1: labels count the folders that are there" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "1" / "000001.r.npy").unlink(), "latents/1 holds no file"),
        (lambda folder: rmtree(folder / "1"), "000001.r.npy is missing in the folders of classes"),
        (lambda folder: write(folder / "03", 1, first=3, sides="r"), "named by number"),
        (lambda folder: write(folder / "2", 1, first=0, sides="r"), "another file has this index"),
    ],
)
def test_lost_classes_are_named(tmp_path, spoil, message):
    for label in range(3):
        write(tmp_path / "latents" / str(label), 1, first=label, sides="r")
    spoil(tmp_path / "latents")
    with pytest.raises(UserError, match=message):
        imported(tmp_path)


def gap(folder):
    (folder / "000002.r.npy").unlink()
    (folder / "000002.l.npy").unlink()


def foreign(folder):
    np.save(folder / "000001.r.npy", np.arange(15))


def cut(folder):
    path = folder / "000002.r.npy"
    path.write_bytes(path.read_bytes()[:-3])


def untouched(folder):
    assert folder.is_dir()


def objects(folder):
    np.save(folder / "000001.r.npy", np.array([{}], object), allow_pickle=True)


@pytest.mark.parametrize(
    ("spoil", "words", "message"),
    [
        (gap, (), "000002.r.npy is missing"),
        (lambda folder: (folder / "000000.r.npy").unlink(), (), "000000.r.npy is missing"),
        (lambda folder: (folder / "000003.l.npy").unlink(), (), "000003.l.npy is missing"),
        (lambda folder: np.save(folder / "000001.npy", np.arange(16)), (), "another file has this index"),
        (lambda folder: np.save(folder / "mean.npy", np.arange(16)), (), "mean.npy is not named"),
        (
            lambda folder: (folder / "000003.r.npy").write_bytes(b""),
            (),
            "000003.r.npy cannot be read: No",
        ),
        (
            lambda folder: (folder / "000000.l.npy").write_bytes(b""),
            (),
            "000000.l.npy cannot be read: No",
        ),
        (cut, (), "000002.r.npy cannot be read"),
        (lambda folder: write(folder, 5, length=0), (), "holds 0 tokens"),
        (lambda folder: (folder / "000004.l.npy").unlink(), (), "picture 4 has one of"),
        (foreign, (), "holds 15 values of int64, not 16 tokens"),
        (objects, (), "cannot be read"),
        (lambda folder: write(folder / "cats", 1), (), "named by number"),
        (lambda folder: write(folder / "3", 1), (), "next to the class folders"),
        (untouched, ("--pictures", "7:9"), "no picture has such an index"),
        (untouched, ("--pictures", "7"), "must be A:B"),
        (lambda folder: write(folder, 5, codes=12), (), "holds the token 11, but --codebook-size is 9"),
        (lambda folder: write(folder, 5, length=15), (), "not form a square grid"),
    ],
)
def test_folders_that_cannot_be_used_are_named(tmp_path, spoil, words, message):
    spoil(write(tmp_path / "latents", 5))
    with pytest.raises(UserError, match=message):
        imported(tmp_path, *words)


def test_nothing_there(tmp_path):
    with pytest.raises(UserError, match="do not exist"):
        imported(tmp_path)
    (tmp_path / "latents").mkdir()
    with pytest.raises(UserError, match="holds no file"):
        imported(tmp_path)
