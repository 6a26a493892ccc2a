"""Halton-MaskGIT's pickles become token shards; a pickle with more than data is refused and not executed."""

import pickle

import numpy as np
import pytest
import torch

from data_scripts.halton_codes import convert, main
from dioscuri.data.tokens import open_tokens
from dioscuri.errors import UserError
from dioscuri.pickles import Foreign, read_plain
from tests.support.tiny_maskgit import CODES, GRID, write_tokenizer


def sample(number):
    return {
        "code": np.random.default_rng(number).integers(0, CODES, (GRID, GRID)).astype(np.uint16),
        "y": number,
    }


@pytest.fixture
def folder(tmp_path):
    """A folder of codes, and the run of their tokenizer."""
    (tmp_path / "codes").mkdir()
    for number in range(5):
        (tmp_path / "codes" / f"{number:07d}.pth").write_bytes(pickle.dumps(sample(number)))
    write_tokenizer(tmp_path)
    return tmp_path


def test_shards_hold_what_the_pickles_held(folder, capsys):
    words = [str(folder / "codes"), str(folder / "tokens"), "--tokenizer", str(folder / "logs-tiny")]
    main(words)
    assert "5 pictures" in capsys.readouterr().out
    tokens = open_tokens(folder / "tokens")
    np.testing.assert_array_equal(tokens.gather(range(5)), [sample(number)["code"] for number in range(5)])
    assert list(tokens.labels) == [0, 1, 2, 3, 4]
    assert len(tokens.header["tokenizer"]["sha256"]) == 64


def test_archives_of_pytorch_are_read(folder):
    torch.save(sample(7), folder / "codes" / "0000004.pth")
    convert(folder / "codes", folder / "tokens", folder / "logs-tiny")
    assert open_tokens(folder / "tokens").labels[4] == 7


PLAIN = {
    "text": "x", "number": 3, "large": 2**70, "none": None, "truth": [True, False], "float": 0.5,
    "tuple": (1, 2, 3, 4), "bytes": b"ab", "scalar": np.float32(2.5), "again": "x",
    "matrix": np.arange(6, dtype=">i4").reshape(2, 3), "columns": np.asfortranarray(np.ones((2, 3))),
}  # fmt: skip


@pytest.mark.parametrize("protocol", range(1, 6))
def test_plain_data_of_every_protocol(protocol):
    actual = read_plain(pickle.dumps(PLAIN, protocol))
    assert actual.keys() == PLAIN.keys()
    for name, value in PLAIN.items():
        np.testing.assert_array_equal(actual[name], value, err_msg=name)


class Evil:
    def __reduce__(self):
        return (print, ("unpickled",))


class State:
    def __init__(self):
        self.x = 1


FOREIGN = {
    "a call": pickle.dumps(Evil()),
    "an object": pickle.dumps(State()),
    "a function": pickle.dumps(np.ndarray),
    "text array": pickle.dumps(np.array(["a"])),
    "object array": pickle.dumps(np.array([None], dtype=object)),
    "half": pickle.dumps(PLAIN)[:40],
    "nothing": b"",
    "no pickle": b"\x00\x01\x02",
    "no operand": b"\x80\x04s.",
}


@pytest.mark.parametrize("name", FOREIGN)
def test_anything_else_is_refused_and_not_run(name, capsys):
    with pytest.raises(Foreign):
        read_plain(FOREIGN[name])
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps({"code": np.zeros((2, 2), np.uint16), "y": 1}), "the tokenizer makes integers"),
        (pickle.dumps({"code": np.full((GRID, GRID), CODES), "y": 1}), f"code {CODES} is not below {CODES}"),
        (pickle.dumps({"code": np.zeros((GRID, GRID), np.uint16)}), "holds no code with a class: 'y'"),
        (pickle.dumps(Evil()), "which is no plain data"),
        (b"PK\x03\x04", "holds no code with a class: damaged"),
    ],
)
def test_a_file_that_does_not_fit_is_named(folder, content, message):
    (folder / "codes" / "0000003.pth").write_bytes(content)
    with pytest.raises(UserError) as caught:
        convert(folder / "codes", folder / "tokens", folder / "logs-tiny")
    assert message in str(caught.value)
    assert "0000003.pth" in str(caught.value)
    assert not (folder / "tokens").exists()


def test_an_empty_folder_is_reported(folder):
    with pytest.raises(UserError, match="is not a folder with files 0000000"):
        convert(folder / "nothing", folder / "tokens", folder / "logs-tiny")
