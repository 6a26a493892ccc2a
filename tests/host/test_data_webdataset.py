"""Tar files of pictures: valid and invalid ones."""

import io
import tarfile

import numpy as np
import pytest
from PIL import Image

from dioscuri.data.pipeline import training_batches
from dioscuri.data.sources import open_datasets
from dioscuri.data.tar_files import examples
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
    data = open_train(tmp_path, labels=True)
    assert list(data.keys) == ["./a.b/00000010", "./a.b/00000020", "./a.b/00000030"]
    np.testing.assert_array_equal(data.gather([2, 0])[:, 0, 0, 0], [30, 10])
    assert data.labels.tolist() == [7, 7, 7]
    assert "left out 2 examples without a picture" in data.notes[0]
    single = open_train(tmp_path / "part-1.tar")
    assert single.gather([0]).shape == (1, 4, 4, 1)


def test_64_processes_read_their_shares_of_tar_files_alone_and_32_go_on_in_mid_epoch(tmp_path):
    """Each process opens the files itself. Within the epoch no picture is read twice or left out."""
    for shard, levels in enumerate(np.arange(96).reshape(3, 32)):
        write_tar(
            tmp_path / f"part-{shard}.tar", [(f"{level:02d}.png", png(flat(level))) for level in levels]
        )
    options = make_options("webdataset", 4, 1, train_data_path=str(tmp_path), num_cpus=1)
    state, seen = None, []
    for count in (64, 32):
        states = []
        for index in range(count):
            examples = open_datasets(options).train
            stream = training_batches(
                examples, options, batch_size=count, process_index=index, process_count=count, state=state
            )
            (picture,) = next(stream)["image"]
            states.append(stream.state())
            stream.close()
            seen.append(picture[0, 0, 0])
            assert examples.read.is_cached.sum() <= 3  # its picture, and those of two batches ahead
        assert all(other == states[0] for other in states)
        state = states[0]
    assert sorted(seen) == list(range(96))


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


def test_damaged_pictures_are_named_or_skipped(tmp_path):
    write_tar(tmp_path / "a.tar", [("a.png", png(flat(1))[:-20]), ("b.png", png(flat(2)))])
    with pytest.raises(UserError, match=r"a\.tar: a: .*skip_corrupt"):
        open_train(tmp_path).gather([0])
    data = open_train(tmp_path, skip_corrupt=True)
    assert data.gather([0, 1])[:, 0, 0, 0].tolist() == [2, 2]
    assert set(data.unreadable) == {0}


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


def test_braces_and_lists_name_tar_files(tmp_path):
    for n in range(4):
        write_tar(tmp_path / f"a/{n:05d}.tar", [(f"{n}.png", png(flat(n)))])
    write_tar(tmp_path / "b/x.tar", [("x.png", png(flat(9)))])
    assert list(open_train(f"{tmp_path}/a/{{00001..00002}}.tar").keys) == ["1", "2"]
    options = make_options("webdataset", 4, 1, train_data_path=(f"{tmp_path}/a", f"{tmp_path}/b"))
    assert list(open_datasets(options).train.keys) == ["0", "1", "2", "3", "x"]


@pytest.mark.parametrize("again", ["a.png", "a.PNG", "a.cls"])
def test_a_member_that_comes_twice_is_refused(tmp_path, again):
    first = [("a.png", png(flat(1))), ("a.cls", b"1")]
    write_tar(tmp_path / "0.tar", [*first, (again, png(flat(2)) if "cls" not in again else b"2")])
    with pytest.raises(UserError, match=rf"two members '{again}'"):
        open_train(tmp_path)


@pytest.mark.parametrize("size", [1024, 2048, 2048 + 200, 2048 + 512 + 30, 3072])
def test_a_tar_file_that_is_cut_anywhere_is_refused(tmp_path, size):
    path = write_tar(tmp_path / "0.tar", [(f"{n}.png", png(flat(n))) for n in range(3)])
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(UserError, match=r"is cut short|cannot be read|ends within"):
        open_train(tmp_path)


def test_tar_files_that_lose_members_otherwise_are_refused(tmp_path):
    path = write_tar(tmp_path / "0.tar", [(f"{n}.png", png(flat(n))) for n in range(3)])
    content = path.read_bytes()
    path.write_bytes(content + content)
    with pytest.raises(UserError, match="continues after its end"):
        open_train(tmp_path)
    path.write_bytes(content[:1024] + b"\1" * 512 + content[1536:])
    with pytest.raises(UserError, match="is damaged at byte 1024"):
        open_train(tmp_path)
    with tarfile.open(path, "w") as archive:
        info = tarfile.TarInfo("a.png")
        archive.addfile(info)
        info = tarfile.TarInfo("b.png")
        info.type, info.linkname = tarfile.LNKTYPE, "a.png"
        archive.addfile(info)
    with pytest.raises(UserError, match=r"'b\.png' is a link"):
        open_train(tmp_path)


@pytest.mark.parametrize("size", [-1, -300, -513, -5000])
def test_a_member_of_negative_size_is_refused(tmp_path, size):
    path = write_tar(tmp_path / "0.tar", [("a.png", png(flat(1))), ("b.png", png(flat(2)))])
    header = bytearray(path.read_bytes())
    header[124:136] = b"\xff" * 8 + size.to_bytes(4, "big", signed=True)  # base 256
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header[:512]):06o}\0 ".encode()
    path.write_bytes(header)
    with pytest.raises(UserError, match=r"0\.tar"):
        open_train(tmp_path)


def test_pictures_that_share_a_name_up_to_its_first_dot_are_reported(tmp_path):
    members = [("v1.0 (a).png", png(flat(1))), ("v1.0 (b).png", png(flat(2))), ("c.png", png(flat(3)))]
    write_tar(tmp_path / "0.tar", members)
    notes = " ".join(open_train(tmp_path).notes)
    assert "left out 2 picture files, such as 'v1.0 (a).png'" in notes
    assert "ends at its first dot" in notes
    assert "without a picture" not in notes
    write_tar(tmp_path / "0.tar", [(f"d.{end}", png(flat(1))) for end in ("png", "1.png", "jpg")])
    assert "left out 2 picture files" in open_train(tmp_path).notes[0]
    write_tar(tmp_path / "0.tar", members[:2])
    with pytest.raises(UserError, match="ends at its first dot"):
        open_train(tmp_path)


def test_hidden_members_are_skipped(tmp_path):
    write_tar(tmp_path / "0.tar", [("./._a.png", b"\0\5"), ("./a.png", png(flat(1))), (".b/c.png", b"x")])
    data = open_train(tmp_path)
    assert list(data.keys) == ["./a"]
    assert not data.notes
