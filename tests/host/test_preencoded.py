"""Tokens and captions pre-encoded by open-muse become shards."""

import io
import json
import tarfile

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from data_scripts.preencoded import main
from dioscuri.data.tokens import open_tokens
from dioscuri.errors import UserError
from tests.support.tiny_maskgit import CODES, GRID, write_tokenizer

ENDING, TEXT = "openmuse.vqgan-f16.pth", "openmuse.clip.pth"
N, LENGTH, WIDTH = 5, 3, 4


def tokens(number):
    return torch.randint(CODES, (GRID**2,), generator=torch.Generator().manual_seed(number))


def states(number):
    return torch.full((LENGTH, WIDTH), float(number))


def saved(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def write_tars(folder, **changes):
    """Two tar files with the members of open-muse; `changes` replace members of the second picture."""
    folder.mkdir(exist_ok=True)
    for part, numbers in enumerate((range(3), range(3, N))):
        with tarfile.open(folder / f"{part}.tar", "w") as archive:
            for number in numbers:
                members = {
                    ENDING: saved(tokens(number)),
                    TEXT: saved(states(number)),
                    "json": json.dumps({"attention_mask_length": 1 + number % LENGTH}).encode(),
                } | (changes if number == 1 else {})
                for name, content in members.items():
                    info = tarfile.TarInfo(f"{number:05d}.{name}")
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))


@pytest.fixture
def folder(tmp_path):
    write_tars(tmp_path / "tars")
    write_tokenizer(tmp_path)
    null = {"text": np.zeros((1, LENGTH, WIDTH), np.float16), "text_mask": np.ones((1, LENGTH), bool)}
    save_file({**null, "pooled": np.zeros((1, 2), np.float16)}, tmp_path / "null.safetensors")
    return tmp_path


def run(folder, *words):
    main(
        [
            str(folder / "tars"),
            str(folder / "tokens"),
            *("--tokenizer", str(folder / "logs-tiny"), "--member", "vqgan-f16.pth"),
            *words,
        ]
    )


def test_shards_hold_what_the_members_held(folder, capsys):
    run(folder, "--texts", "clip.pth", "--null", str(folder / "null.safetensors"))
    assert "5 pictures" in capsys.readouterr().out
    opened = open_tokens(folder / "tokens")
    expected = np.stack([tokens(number).reshape(GRID, GRID) for number in range(N)])
    np.testing.assert_array_equal(opened.gather(range(N)), expected)
    assert list(opened.keys) == [f"{number:05d}" for number in range(N)]
    assert len(opened.header["tokenizer"]["sha256"]) == 64
    texts = opened.texts.gather(range(N))
    np.testing.assert_array_equal(texts["text"], np.stack([states(number) for number in range(N)]))
    assert texts["text_mask"].sum(1).tolist() == [1, 2, 3, 1, 2]


class Command:
    """An object whose unpickling would execute code."""

    def __reduce__(self):
        return (print, ("unpickled",))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({ENDING: saved(tokens(1) + CODES)}, "is not a code of the tokenizer, 0..15"),
        ({ENDING: saved(tokens(1)[:-1])}, "the tokenizer makes 16 integers"),
        ({ENDING: saved(tokens(1).float())}, "the tokenizer makes 16 integers"),
        ({ENDING: saved(Command())}, "holds no tensor"),
        ({ENDING: saved(tokens(1))[:40]}, "holds no tensor"),
        ({"other.vqgan-f16.pth": saved(tokens(1))}, "has 2 members that end in 'vqgan-f16.pth'"),
        ({TEXT: saved(states(1)[:2])}, "holds float32 (2, 4)"),
        ({"json": b"{"}, "its json is damaged"),
    ],
)
def test_members_that_do_not_fit_are_named(folder, changes, message, capsys):
    write_tars(folder / "tars", **changes)
    with pytest.raises(UserError) as refused:
        run(folder, "--texts", "clip.pth", "--null", str(folder / "null.safetensors"))
    assert "'00001'" in str(refused.value)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
    assert "unpickled" not in capsys.readouterr().out


def test_words_that_do_not_fit_are_named(folder):
    with pytest.raises(UserError, match="belong together"):
        run(folder, "--texts", "clip.pth")
    (folder / "tars" / "0.tar").write_bytes(b"no tar file")
    with pytest.raises(UserError, match="plain tar file"):
        run(folder)
