"""Plain text as tokens of SUNDAE."""

from types import SimpleNamespace

import numpy as np
import pytest

from common.data.characters import CODES, decode, encode, open_text
from common.errors import UserError
from common.run.families import check_options
from tests.common.tiny_sundae import tiny

TEXT = [
    "data.dataset_source=text", "data.grid=0", "data.codebook_size=27", "data.sequence_length=8",
    "data.labels=False", "model.architecture=transformer", "model.depth=1", "model.shorten_factor=0",
    "model.num_classes=0", "model.dim_head=32",
]  # fmt: skip


def test_letters_and_spaces():
    assert encode(b"Ab, z\n").tolist() == [1, 2, 0, 26, 0]
    assert decode(np.array([1, 2, 0, 26])) == "ab z"
    assert encode(b"").tolist() == []


def options(path, length=8):
    data = SimpleNamespace(train_data_path=str(path), sequence_length=length)
    return SimpleNamespace(data=data)


def test_splits_follow_one_another_and_windows_start_everywhere(tmp_path):
    path = tmp_path / "text"
    path.write_text("abcdefghijklmnopqrst" * 5)
    parts = {split: open_text(options(path), split) for split in ("train", "validation", "test")}
    assert [len(part) for part in parts.values()] == [90, 5, 5]
    assert parts["train"].gather([0, 3])[:, 0].tolist() == [[*range(1, 9)], [*range(4, 12)]]
    assert decode(parts["test"].gather([3])[0, 0]) == "st      "
    assert parts["validation"].grid == (1, 8)
    assert parts["validation"].codebook_size == CODES


def test_texts_that_cannot_be_used_are_named(tmp_path):
    path = tmp_path / "text"
    path.write_text("abc")
    for given, message in [
        (options(tmp_path / "nothing"), "cannot be read"),
        (options(path), "holds 3 characters"),
        (options(path, 0), "sequence_length is 0"),
    ]:
        with pytest.raises(UserError, match=message):
            open_text(given, "validation")


def test_options_of_text():
    check_options(tiny(*TEXT))
    for override, message in [
        ("data.codebook_size=20", "needs grid=0, codebook_size=27"),
        ("data.dataset_source=tokens", "grid is 0, which is for text"),
        ("data.grid=4", "leave nothing to learn"),
        ("data.sequence_length=0", "leave nothing to learn"),
        ("model.architecture=hourglass", "needs a grid of tokens"),
    ]:
        with pytest.raises(UserError, match=message):
            check_options(tiny(*TEXT, override))
