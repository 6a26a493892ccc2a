"""Tar files of pictures: what is read, and what is refused."""

import io
import tarfile

import numpy as np
import pytest
from PIL import Image

from dioscuri.data.sources import open_datasets
from dioscuri.data.webdataset import examples
from dioscuri.errors import UserError
from tests.support.data_options import make_options


def png(array):
    """A picture as a PNG file's bytes."""
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, format="PNG")
    return stream.getvalue()


def write_tar(path, members, mode="w"):
    """A tar file of (name, content)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def flat(level, size=(4, 4)):
    """A grey picture of one level."""
    return np.full(size, level, np.uint8)


def open_train(path, **data):
    return open_datasets(make_options("webdataset", 4, 1, train_data_path=str(path), **data)).train


def test_examples_of_several_files_are_one_set(tmp_path):
    for shard, levels in enumerate([(10, 20), (30,)]):
        members = []
        for level in levels:
            members += [(f"./a.b/{level:08d}.PNG", png(flat(level))), (f"./a.b/{level:08d}.cls", b" 7\n")]
        write_tar(tmp_path / f"part-{shard}.tar", [*members, ("README", b"no example")])
    found = open_train(tmp_path, labels=True)
    assert list(found.keys) == ["./a.b/00000010", "./a.b/00000020", "./a.b/00000030"]
    np.testing.assert_array_equal(found.gather([2, 0])[:, 0, 0, 0], [30, 10])
    assert found.labels.tolist() == [7, 7, 7]
    assert "left out 2 examples without a picture" in found.notes[0]
    single = open_train(tmp_path / "part-1.tar")
    assert single.gather([0]).shape == (1, 4, 4, 1)


def test_the_middle_of_a_picture_is_taken(tmp_path):
    wide = np.zeros((4, 12), np.uint8)
    wide[:, 4:8] = 200
    write_tar(tmp_path / "a.tar", [("x.png", png(wide)), ("y.png", png(wide.T.copy()))])
    assert (open_train(tmp_path).gather([0, 1]) == 200).all()


def test_keys_end_at_the_first_dot_of_the_name(tmp_path):
    path = write_tar(tmp_path / "a.tar", [("v1.0/x.seg.png", b""), ("v1.0/x.png", b""), ("y.json", b"")])
    assert [(example.key, sorted(example.members)) for example in examples(path)] == [
        ("v1.0/x", ["png", "seg.png"]),
        ("y", ["json"]),
    ]


@pytest.mark.parametrize(
    ("label", "message"), [(b"cat", "class 'cat'"), (None, "class ''"), (b"-1", "class '-1'")]
)
def test_classes_that_are_none(tmp_path, label, message):
    members = [("a.png", png(flat(1))), ("a.cls", b"0"), ("b.png", png(flat(2)))]
    write_tar(tmp_path / "a.tar", members + ([("b.cls", label)] if label else []))
    with pytest.raises(UserError, match=message):
        open_train(tmp_path)


def test_pictures_without_classes(tmp_path):
    write_tar(tmp_path / "a.tar", [("a.png", png(flat(1)))])
    assert open_train(tmp_path).labels is None
    with pytest.raises(UserError, match=r"\[data\] labels is True"):
        open_train(tmp_path, labels=True)


def test_damaged_pictures_are_named_or_passed_over(tmp_path):
    write_tar(tmp_path / "a.tar", [("a.png", png(flat(1))[:-20]), ("b.png", png(flat(2)))])
    with pytest.raises(UserError, match=r"a\.tar: a: .*skip_corrupt"):
        open_train(tmp_path).gather([0])
    found = open_train(tmp_path, skip_corrupt=True)
    assert found.gather([0, 1])[:, 0, 0, 0].tolist() == [2, 2]
    assert set(found.unreadable) == {0}


def test_files_that_are_no_plain_tar(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"nothing of that kind" * 99)
    with pytest.raises(UserError, match="cannot be read as a plain tar file"):
        open_train(tmp_path)
    write_tar(tmp_path / "a.tar", [("a.png", png(flat(1)))], "w:gz")
    with pytest.raises(UserError, match="cannot be read as a plain tar file"):
        open_train(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no tar file with pictures"):
        open_train(tmp_path / "empty")


def test_a_file_that_was_cut(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (90, 90), np.uint8)
    path = write_tar(tmp_path / "a.tar", [("a.png", png(flat(1))), ("b.png", png(noise))])
    whole = open_train(tmp_path)
    path.write_bytes(path.read_bytes()[:4000])
    with pytest.raises(UserError, match="ends within a member"):
        whole.gather([1])
