"""Damaged and hostile data: every file is read or refused in one line, without filling memory or hanging."""

import io
import os
import tarfile
import zipfile

import numpy as np
import pytest

from data_scripts.extract import unpack
from data_scripts.imagenet import store_uncompressed
from dioscuri.data import numpy_files, open_datasets
from dioscuri.data.captions import read_captions
from dioscuri.data.idx import read_idx
from dioscuri.data.numpy_files import Damaged, member_names, read_member
from dioscuri.data.tar_files import examples
from dioscuri.errors import UserError
from tests.support.data_options import make_options, paths
from tests.support.signals import tone, write_wav

PICTURES = np.random.default_rng(0).integers(0, 256, (2, 48), np.uint8)


def flipped(content, at, bits=0xFF):
    """The content with one byte changed."""
    return content[:at] + bytes([content[at] ^ bits]) + content[at + 1 :]


def opened(source, folder, **data):
    channels = 3 if source == "imagenet" else 1
    return open_datasets(make_options(source, 4, channels, **paths(folder), **data)).train


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_changed_byte_of_an_npz_is_refused_or_does_no_harm(tmp_path, save):
    path = tmp_path / "0.npz"
    save(path, data=PICTURES)
    content = path.read_bytes()
    refused = 0
    for at in range(len(content)):
        path.write_bytes(flipped(content, at))
        try:
            pictures = opened("imagenet", tmp_path).gather([0, 1])
        except UserError:
            refused += 1
        else:
            np.testing.assert_array_equal(pictures, PICTURES.reshape(2, 3, 4, 4).transpose(0, 2, 3, 1))
    assert refused > len(content) // 2


def test_a_changed_byte_of_an_npy_header_is_refused_or_read(tmp_path):
    path = tmp_path / "0.npy"
    np.save(path, PICTURES.reshape(6, 4, 4))
    content = path.read_bytes()
    messages = []
    for bits in (0xFF, 0x01, 0x20):
        for at in range(len(content) - PICTURES.size):
            path.write_bytes(flipped(content, at, bits))
            try:
                assert opened("npy", tmp_path).gather([0]).shape == (1, 4, 4, 1)
            except UserError as error:
                messages.append(str(error))
    assert messages
    assert all(str(path) in message for message in messages)


def archive_of(path, header, content, compression=zipfile.ZIP_DEFLATED):
    """An npz whose member 'data' has this header, a text, and this content."""
    text = header.encode().ljust(117) + b"\n"
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("data.npy", b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text + content)
    return path


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '|u1', 'fortran_order': False, 'shape': (10000000000000, 48), }",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (-1, 48), }",
        "{'descr': '|O', 'fortran_order': False, 'shape': (1, 6), }",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (2, 48)",
        "{'descr': 3, 'fortran_order': False, 'shape': (2, 48), }",
        "((((((((((",
    ],
)
def test_headers_that_claim_what_is_not_there(tmp_path, header, compression):
    path = archive_of(tmp_path / "0.npz", header, PICTURES.tobytes(), compression)
    with pytest.raises(Damaged):
        read_member(path, "data")
    with pytest.raises(UserError, match=r"0\.npz: not a numpy archive"):
        opened("imagenet", tmp_path)
    with pytest.raises(UserError, match=r"0\.npz: not a file of downsampled ImageNet"):
        store_uncompressed(path)


def test_members_that_unpack_to_nothing_but_zeros_are_refused_unread(tmp_path, monkeypatch):
    monkeypatch.setattr(numpy_files, "_FREE_BYTES", 1 << 20)
    n = 1 << 22
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({n}, 1), }}"
    path = archive_of(tmp_path / "0.npz", header, bytes(n))
    assert path.stat().st_size < 10_000
    with pytest.raises(Damaged, match=f"unpack to {n + 128}, as no real data do"):
        read_member(path, "data")
    assert member_names(path) == ["data"]


def test_archives_that_would_fill_the_disk_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(70 << 20))
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as packed:
        info = tarfile.TarInfo("a.png")
        info.size = 70 << 20
        packed.addfile(info, io.BytesIO(bytes(info.size)))
    for name in ("a.zip", "a.tar.gz"):
        with pytest.raises(UserError, match=r"'a\.png' claims to unpack .* bytes to 73400320"):
            unpack(tmp_path / name, tmp_path / "out", lambda name: name)
    assert not (tmp_path / "out").exists()


def test_a_changed_byte_of_a_wav_file_is_refused_or_does_no_harm(tmp_path):
    path = write_wav(tmp_path / "0.wav", tone(40))
    content = path.read_bytes()
    sounds = {"sample_rate": 8000, "sample_encoding": "mu_law"}
    messages = []
    for bits in (0xFF, 0x80, 0x01):
        for at in range(44):
            path.write_bytes(flipped(content, at, bits))
            try:
                assert opened("wav", tmp_path, **sounds).gather([0]).shape == (1, 4, 1)
            except UserError as error:
                messages.append(str(error))
    assert messages
    assert not any("\n" in message for message in messages)


def test_a_changed_byte_of_a_tar_header_is_refused_or_does_no_harm(tmp_path):
    path = tmp_path / "0.tar"
    with tarfile.open(path, "w") as archive:
        for name in ("a.png", "b.png"):
            info = tarfile.TarInfo(name)
            info.size = 300
            archive.addfile(info, io.BytesIO(bytes(300)))
    content = path.read_bytes()
    messages = []
    for bits in (0xFF, 0x80, 0x01):
        for at in range(512):
            header = flipped(content, at, bits)
            # A right checksum for the changed header.
            total = sum(header[:148]) + 8 * 32 + sum(header[156:512])
            path.write_bytes(header[:148] + f"{total:06o}\0 ".encode() + header[156:])
            try:
                assert len(examples(path)) <= 2
            except UserError as error:
                messages.append(str(error))
    assert messages
    assert all(str(path) in message for message in messages)


@pytest.mark.parametrize("source", ["custom", "glob", "webdataset", "tfrecords", "npy", "wav"])
def test_a_pipe_or_device_in_place_of_a_file_is_refused(tmp_path, source):
    data = {"sample_rate": 8000, "sample_encoding": "mu_law"} if source == "wav" else {}
    os.mkfifo(tmp_path / "pipe.npy")
    for path in (tmp_path / "pipe.npy", "/dev/zero"):
        with pytest.raises(UserError, match=r"plain file|folder|\.wav files"):
            opened(source, path, **data)


def test_captions_of_a_pipe_are_refused(tmp_path):
    os.mkfifo(tmp_path / "captions.txt")
    with pytest.raises(UserError, match="neither a regular file nor a folder"):
        read_captions(tmp_path / "captions.txt")


@pytest.mark.parametrize("content", ['{"key": "a", "caption": "x"}\n{"key": "a", "caption": "y"}\n'])
def test_captions_of_one_key_that_differ_are_refused(tmp_path, content):
    path = tmp_path / "captions.jsonl"
    path.write_text(content)
    with pytest.raises(UserError, match="'a' has two"):
        read_captions(path)
    path.write_text(content.replace('"y"', '"x"'))
    assert read_captions(path)["a"].text == "x"


def test_idx_files_that_claim_more_than_any_set_has_are_refused(tmp_path):
    sides = (1 << 21, 32, 32)  # two gigabytes
    (tmp_path / "x").write_bytes(b"\0\0\x08\3" + b"".join(side.to_bytes(4, "big") for side in sides))
    with pytest.raises(UserError, match="more than any such data set has"):
        read_idx(tmp_path / "x")


@pytest.mark.parametrize(
    "line",
    [
        "[" * 100_000,
        '{"key": "a", "caption": "x", "micro": [1e999, 1, 0, 0, 5]}',
        f'{{"key": "a", "caption": "x", "micro": [1{"0" * 400}, 1, 0, 0, 5]}}',
        '{"key": "a", "caption": "x", "micro": [NaN, 1, 0, 0, 5]}',
    ],
)
def test_captions_of_hostile_json_are_refused(tmp_path, line):
    (tmp_path / "captions.jsonl").write_text(line + "\n")
    with pytest.raises(UserError, match=r"line 1: (not JSON|\"micro\" must be 5 numbers)"):
        read_captions(tmp_path / "captions.jsonl")
