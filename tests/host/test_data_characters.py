"""Plain text as tokens of SUNDAE."""

from types import SimpleNamespace

import numpy as np
import pytest

from dioscuri.checkpoint.directory import RunDirectory
from dioscuri.context import Context
from dioscuri.contract import check_options
from dioscuri.data import open_datasets
from dioscuri.data.characters import CODES, decode, encode, open_text
from dioscuri.errors import UserError
from dioscuri.families.sundae import logic as sundae
from dioscuri.families.token_models import report
from tests.support.tiny_sundae import tiny

TEXT = [
    "data.dataset_source=text", "data.grid=0", "data.codebook_size=27", "data.sequence_length=8",
    "data.labels=False", "model.architecture=transformer", "model.depth=1", "model.shorten_factor=0",
    "model.num_classes=0", "model.dim_head=32", "data.val_data_path=", "data.synthesis_data_path=",
]  # fmt: skip


def test_letters_and_spaces():
    assert encode(b"Ab, z\n").tolist() == [1, 2, 0, 26, 0]
    assert decode(np.array([1, 2, 0, 26])) == "ab z"
    assert encode(b"").tolist() == []


def options(path, length=8, validation=""):
    data = {"train_data_path": str(path), "val_data_path": validation, "synthesis_data_path": ""}
    return SimpleNamespace(data=SimpleNamespace(**data, sequence_length=length))


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
        (options(tmp_path / "nothing"), "does not exist"),
        (options(path), "holds 3 characters"),
        (options(path, 0), "sequence_length is 0"),
        (options(path, validation="other"), "val_data_path is 'other', but all splits of a text"),
    ]:
        with pytest.raises(UserError, match=message):
            open_text(given, "validation")


def test_options_of_text():
    check_options(tiny(*TEXT))
    for override, message in [
        ("data.codebook_size=20", "needs grid=0, codebook_size=27"),
        ("data.dataset_source=tokens", "grid is 0, which is for text"),
        ("data.grid=4", "are empty"),
        ("data.sequence_length=0", "are empty"),
        ("model.architecture=hourglass", "needs a grid of tokens"),
    ]:
        with pytest.raises(UserError, match=message):
            check_options(tiny(*TEXT, override))


class Unsure:
    """An engine for evaluation; every token costs 3 nats."""

    process_index = 0

    def run(self, method, batch, **_options):
        assert method == "evaluate"
        n = len(batch["tokens"])
        return {"cross_entropy": np.full(n, 3.0), "accuracy": np.zeros(n)}


def test_some_texts_of_the_test_split_are_enough(tmp_path, monkeypatch, capsys):
    path = tmp_path / "text"
    path.write_text("abcdefghijklmnopqrst" * 500)
    hparams = tiny(*TEXT, f"data.train_data_path={path}", "val.batch_size=20")
    context = Context(hparams, RunDirectory(tmp_path), open_datasets(hparams), Unsure())
    monkeypatch.setattr(report, "N_REFERENCE", 70)
    actual = sundae.SundaeRun(context).report()
    assert "70 test texts" in capsys.readouterr().out
    assert (actual["test_pictures"], actual["cross_entropy"]) == (70, 3.0)
