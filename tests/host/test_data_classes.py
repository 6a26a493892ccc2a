"""Class folders: labels in the order of the folders' names, the same in every split and stored in the run."""

import json

import numpy as np
import pytest
from PIL import Image

from dioscuri.data import open_datasets
from dioscuri.data.classes import read_classes, write_classes
from dioscuri.data.tokens import TokenWriter, open_tokens
from dioscuri.errors import UserError
from dioscuri.run.synthesize import synthesize
from dioscuri.run.train import train
from tests.support.data_options import make_options, paths


def picture(path, level=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 4), level, np.uint8)).save(path)


@pytest.fixture
def root(tmp_path):
    """Two classes with pictures, one of them nested; an empty class before both; a hidden folder."""
    picture(tmp_path / "train/dog/puppies/1.png", 30)
    picture(tmp_path / "train/cat/b.png", 20)
    picture(tmp_path / "train/cat/a.png", 10)
    picture(tmp_path / "train/.cache/x.png")
    (tmp_path / "train/bird").mkdir()
    picture(tmp_path / "val/dog/z.png", 40)
    return tmp_path


def open_sets(source, train, val, classes=(), **data):
    chosen = {"train_data_path": str(train), "val_data_path": str(val), "synthesis_data_path": str(val)}
    return open_datasets(make_options(source, 4, 1, labels=True, **chosen, **data), classes)


@pytest.mark.parametrize("pattern", [None, "", "/**/*.png", "/{bird,cat,dog}/**/*.png"])
def test_folders_name_the_classes(root, pattern):
    source, pattern = ("custom", "") if pattern is None else ("glob", pattern)
    sets = open_sets(source, f"{root}/train{pattern}", f"{root}/val{pattern.partition('{')[0]}")
    assert list(sets.train.keys) == ["cat/a.png", "cat/b.png", "dog/puppies/1.png"]
    assert sets.train.classes == ("bird", "cat", "dog")
    assert sets.train.labels.tolist() == [1, 1, 2]
    assert sets.train.gather([2])[0, 0, 0, 0] == 30
    # One folder alone would be class 0.
    assert sets.validation.labels.tolist() == [2]
    assert sets.validation.classes == ("bird", "cat", "dog")


def test_a_class_that_training_does_not_know_is_named(root):
    picture(root / "val/fox/1.png")
    with pytest.raises(UserError, match=r"val_data_path: folder 'fox' is not one of .* bird, cat, dog"):
        _ = open_sets("custom", root / "train", root / "val").validation


def test_the_table_of_the_run_wins_over_what_the_folders_have_become(root):
    write_classes(root, ["ant", "bird", "cat", "dog"])
    assert json.loads((root / "classes.json").read_text()) == {"ant": 0, "bird": 1, "cat": 2, "dog": 3}
    sets = open_sets("custom", root / "gone", root / "val", read_classes(root))
    assert sets.validation.labels.tolist() == [3]
    sets = open_sets("custom", root / "train", root / "val", read_classes(root))
    assert sets.train.labels.tolist() == [2, 2, 3]
    (root / "classes.json").write_text('{"ant": 1}')
    with pytest.raises(UserError, match="not a table of names"):
        read_classes(root)


def test_pictures_outside_of_the_folders_have_no_class(root):
    picture(root / "train/loose.png")
    for source, path in (("custom", root / "train"), ("glob", root / "train/**/*.png")):
        with pytest.raises(UserError, match="sort the pictures into one folder per class"):
            _ = open_sets(source, path, root / "val").train
    plain = open_datasets(make_options("custom", 4, 1, **paths(root / "train"))).train
    assert list(plain.keys) == ["loose.png"]
    assert "left out 1 folder (cat)" in plain.notes[0]


def test_tokens_carry_the_names_of_the_classes(tmp_path):
    header = {"grid": [1, 1], "codebook_size": 4, "tokenizer": {}, "classes": ["cat", "dog"]}
    writer = TokenWriter(tmp_path / "t", header, ["a", "b"], np.array([1, 0]))
    writer.add(np.zeros((2, 1, 1), np.int64))
    writer.finish()
    assert open_tokens(tmp_path / "t").classes == ("cat", "dog")


def test_a_run_keeps_the_table_beside_its_checkpoints(tmp_path, make_run):
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            for number in range(4):
                picture(tmp_path / split / name / f"{number}.png", 40 * number)
    folders = [f"data.{option}={tmp_path / 'val'}" for option in ("val_data_path", "synthesis_data_path")]
    words = ("data.dataset_source=custom", f"data.train_data_path={tmp_path / 'train'}", *folders)
    context = make_run(*words, "data.target_res=8", "train.total_train_steps=2")
    train(context)
    assert read_classes(context.directory.path) == ("cat", "dog")
    assert json.loads((context.directory.path / "classes.json").read_text()) == {"cat": 0, "dog": 1}


def test_a_table_that_was_changed_is_named(tmp_path, make_run):
    for name in ("cat", "dog"):
        for number in range(4):
            picture(tmp_path / "set" / name / f"{number}.png", 40 * number)
    paths = [f"data.{split}_data_path={tmp_path / 'set'}" for split in ("train", "val", "synthesis")]
    words = ("data.dataset_source=custom", "data.labels=True", *paths, "train.total_train_steps=2")
    context = make_run(*words)
    train(context)
    table = context.directory.path / "classes.json"
    table.write_text('{"dog": 0, "cat": 1}')
    for work in (train, synthesize):
        with pytest.raises(UserError, match=r"learnt other numbers than .*classes\.json .* that of 'cat'"):
            work(make_run(*words, "train.total_train_steps=4"))
    table.unlink()
    train(make_run(*words, "train.total_train_steps=4"))
