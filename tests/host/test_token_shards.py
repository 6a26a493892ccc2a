"""Token shards: they are read back as written, an interrupted writer continues, and damage is named."""

import json

import numpy as np
import pytest

from dioscuri.data import shards
from dioscuri.data.texts import TextWriter
from dioscuri.data.tokens import TokenWriter, open_tokens
from dioscuri.errors import UserError
from dioscuri.files import read_sealed_json, write_sealed_json

K, GRID, N = 40, (2, 3), 23
HEADER = {"grid": list(GRID), "codebook_size": K, "tokenizer": {"sha256": "ab" * 32}, "split": "train"}


def tokens(n=N, k=K):
    return np.random.default_rng(0).integers(0, k, (n, *GRID))


def keys(n=N):
    return [f"picture {i}" for i in range(n)]


def labels(n=N):
    return np.arange(n) % 10


def write(folder, *, header=HEADER, n=N, upto=None, shard_size=5, batch=4, k=K, with_labels=True):
    """Write all tokens, or only the first ones without finishing, like a killed process."""
    found = labels(n) if with_labels else None
    writer = TokenWriter(folder, header, keys(n), found, shard_size=shard_size)
    every = tokens(n, k)
    for start in range(writer.n_pictures, n if upto is None else upto, batch):
        writer.add(every[start : start + batch])
    if upto is None:
        writer.finish()
    return writer


@pytest.mark.parametrize("shard_size", [1, 5, 23, 100])
def test_what_is_written_is_read_back(tmp_path, shard_size):
    write(tmp_path, shard_size=shard_size)
    found = open_tokens(tmp_path)
    assert (len(found), found.grid, found.codebook_size) == (N, GRID, K)
    assert found.header["tokenizer"] == HEADER["tokenizer"]
    order = np.random.default_rng(1).permutation(N)
    gathered = found.gather(order)
    assert gathered.dtype == np.int32
    np.testing.assert_array_equal(gathered, tokens()[order])
    np.testing.assert_array_equal(found.labels, labels())
    assert list(found.keys) == keys()
    assert found.keys[-1] == keys()[-1]
    assert found.keys[3:9:2] == keys()[3:9:2]
    with pytest.raises(IndexError):
        found.gather([N])


def test_pictures_without_labels(tmp_path):
    write(tmp_path, with_labels=False)
    assert open_tokens(tmp_path).labels is None


@pytest.mark.parametrize(("k", "dtype"), [(2**16, np.uint16), (2**16 + 1, np.uint32), (2**18, np.uint32)])
def test_large_codebooks_take_more_bytes(tmp_path, k, dtype):
    write(tmp_path, header={**HEADER, "codebook_size": k}, k=k)
    assert np.load(tmp_path / "tokens-00000.npy").dtype == dtype
    np.testing.assert_array_equal(open_tokens(tmp_path).gather(range(N)), tokens(k=k))


@pytest.mark.parametrize("upto", [4, 8, 20])
def test_interrupted_writer_continues(tmp_path, upto):
    write(tmp_path, upto=upto)
    if upto >= 5:
        with pytest.raises(UserError, match="unfinished"):
            open_tokens(tmp_path)
    assert TokenWriter(tmp_path, HEADER, keys(), labels(), shard_size=5).n_pictures == upto // 5 * 5
    write(tmp_path)
    np.testing.assert_array_equal(open_tokens(tmp_path).gather(range(N)), tokens())


@pytest.mark.parametrize("damage", ["missing", "cut short", "empty"])
def test_writer_continues_with_the_first_shard_that_is_damaged(tmp_path, damage):
    write(tmp_path)
    path = tmp_path / "tokens-00002.npy"
    content = path.read_bytes()
    path.unlink() if damage == "missing" else path.write_bytes(content[: -3 if damage == "cut short" else 0])
    with pytest.raises(UserError, match="tokens-00002"):
        open_tokens(tmp_path)
    assert write(tmp_path, upto=10).n_pictures == 10
    write(tmp_path)
    np.testing.assert_array_equal(open_tokens(tmp_path).gather(range(N)), tokens())


def test_other_tokens_are_never_mixed(tmp_path):
    write(tmp_path)
    other = {**HEADER, "tokenizer": {"sha256": "cd" * 32}}
    with pytest.raises(UserError, match=r"made with other settings \(tokenizer\)"):
        TokenWriter(tmp_path, other, keys(), labels(), shard_size=5)


def test_writer_refuses_what_does_not_fit(tmp_path):
    writer = TokenWriter(tmp_path, HEADER, keys(), None, shard_size=5)
    with pytest.raises(ValueError, match="the header says"):
        writer.add(np.zeros((4, 3, 2)))
    with pytest.raises(ValueError, match="codes from 0 to 39"):
        writer.add(np.full((5, *GRID), K))
    short = TokenWriter(tmp_path / "short", HEADER, keys(), None)
    short.add(tokens()[:-1])
    with pytest.raises(ValueError, match="22 of 23"):
        short.finish()


def cut(path):
    path.write_bytes(path.read_bytes()[:-4])


def other_shape(path):
    np.save(path, np.zeros((5, 3, 3), np.uint16))


def pickled(path):
    np.save(path, np.array([{}], object), allow_pickle=True)


def archive(path):
    np.savez(path, np.zeros(3))
    path.with_suffix(".npy.npz").replace(path)


def as_version_0_1_0(folder):
    """Without checksums."""
    index, _ = read_sealed_json(folder / "index.json", "tokens")
    del index["files"]
    index["header"]["format"] = 1
    (folder / "index.json").write_text(json.dumps(index))


def test_a_set_of_an_older_version_is_read_and_reported(tmp_path):
    write(tmp_path)
    assert not open_tokens(tmp_path).notes
    as_version_0_1_0(tmp_path)
    found = open_tokens(tmp_path)
    np.testing.assert_array_equal(found.gather(range(N)), tokens())
    assert "without checksums" in found.notes[0]


def test_captions_of_an_older_version_are_told_too(tmp_path):
    write(tmp_path)
    null = {"text": np.zeros((1, 2, 3), np.float16)}
    writer = TextWriter(tmp_path / "texts", {"encoder": "none"}, keys(), null)
    writer.add({"text": np.zeros((N, 2, 3), np.float16)})
    writer.finish()
    assert not open_tokens(tmp_path).notes
    as_version_0_1_0(tmp_path / "texts")
    (note,) = open_tokens(tmp_path).notes
    assert note.startswith(f"{tmp_path / 'texts'}: written without checksums")


@pytest.mark.parametrize("at_once", [1 << 32, 0])
@pytest.mark.parametrize("name", ["tokens-00001.npy", "labels-00001.npy", "keys-00001.json", "index.json"])
def test_a_changed_byte_of_any_file_is_named(tmp_path, monkeypatch, name, at_once):
    """Even in large sets, whose files are checked when they are first read."""
    monkeypatch.setattr(shards, "_AT_ONCE", at_once)
    write(tmp_path)
    content = bytearray((tmp_path / name).read_bytes())
    at = content.rindex(b"5" if name.endswith("json") else content[-3:])
    content[at] ^= 1  # another digit, or another token
    (tmp_path / name).write_bytes(content)

    def read_all():
        found = open_tokens(tmp_path)
        found.gather(range(N))
        return list(found.keys), found.labels

    with pytest.raises(UserError, match=rf"{name} do(es)? not match (its|their) sha256"):
        read_all()


def test_a_checksum_that_is_missing_is_no_way_out(tmp_path):
    write(tmp_path)
    index, _ = read_sealed_json(tmp_path / "index.json", "tokens")
    (tmp_path / "index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="lacks checksums"):
        open_tokens(tmp_path)


@pytest.mark.parametrize("damage", [cut, other_shape, pickled, archive, lambda path: path.write_bytes(b"")])
def test_damaged_shards_are_named(tmp_path, damage):
    write(tmp_path)
    damage(tmp_path / "tokens-00001.npy")
    with pytest.raises(UserError, match="tokens-00001"):
        open_tokens(tmp_path)


def test_tokens_that_are_no_codes(tmp_path):
    write(tmp_path)
    as_version_0_1_0(tmp_path)
    np.save(tmp_path / "tokens-00000.npy", np.full((5, *GRID), K, np.uint16))
    with pytest.raises(UserError, match=r"40 is not a code in 0\.\.39"):
        open_tokens(tmp_path).gather([0])


def test_damaged_labels_and_keys_are_named(tmp_path):
    write(tmp_path)
    (tmp_path / "keys-00001.json").write_text('["a"]')
    with pytest.raises(UserError, match="keys-00001"):
        open_tokens(tmp_path).keys[7]
    np.save(tmp_path / "labels-00001.npy", np.zeros(5))
    with pytest.raises(UserError, match="labels-00001"):
        open_tokens(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda index: index["header"].pop("arrays"), "not an index of tokens"),
        (lambda index: index["header"]["arrays"].update(tokens=[[2, 0], "uint16"]), "not an index of tokens"),
        (lambda index: index["header"]["arrays"].update(tokens=[[2, 3], "object"]), "not an index of tokens"),
        (lambda index: index.update(shards={}), "not an index of tokens"),
        (lambda index: index["header"].update(format=3), "format 3"),
        (lambda index: index["header"].update(n_examples=True), "not an index of tokens"),
        (lambda index: index["header"].update(arrays={"../t": [[2, 3], "uint16"]}), "not an index of tokens"),
        (lambda index: index["header"].update(arrays={}), "not an index of tokens"),
        (lambda index: index.update(files={"../x": "ab"}), "not an index of tokens"),
        (lambda index: index.update(files={"keys-00000.json": 3}), "not an index of tokens"),
        (lambda index: index["files"].pop("keys-00001.json"), "lacks checksums"),
        (lambda index: index["shards"].pop(), "unfinished"),
        (lambda index: index["header"]["arrays"].update(tokens=[[3, 2], "uint16"]), "tokens-00000"),
        (lambda index: index["header"].pop("grid"), "no grids of tokens"),
        (lambda index: index["header"].update(grid=[3, 2]), "no grids of tokens"),
        (lambda index: index["header"].update(codebook_size="many"), "no grids of tokens"),
    ],
)
def test_damaged_indices_are_named(tmp_path, change, message):
    write(tmp_path)
    path = tmp_path / "index.json"
    index, has_seal = read_sealed_json(path, "tokens")
    assert has_seal
    change(index)
    write_sealed_json(path, index)
    with pytest.raises(UserError, match=message):
        open_tokens(tmp_path)


def test_folders_that_hold_no_tokens(tmp_path):
    with pytest.raises(UserError, match="do not exist"):
        open_tokens(tmp_path / "nowhere")
    with pytest.raises(UserError, match="does not exist"):
        open_tokens(tmp_path)
    (tmp_path / "index.json").write_text("[]")
    with pytest.raises(UserError, match="not an index of tokens"):
        open_tokens(tmp_path)
