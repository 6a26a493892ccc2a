"""Every user error gives exit code 2 and one line, and changes nothing."""

import errno
import hashlib
import os
import re
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from dioscuri.data.tf_example import encode
from dioscuri.data.tfrecords import write_tfrecords
from tests.support.tiny import TINY
from tests.support.twins import ROOT, TWINS, call


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A PyTorch twin's folder with a run `tiny` of 3 batches."""
    folder = tmp_path_factory.mktemp("bad") / "torch_impl"
    folder.mkdir()
    (folder.parent / "tiny.cfg").write_text(TINY)
    call("train", folder, folder.parent / "tiny.cfg", "train.total_train_steps=3")
    return folder


def assert_matches(pattern, line):
    assert re.search(pattern, line), line


def contents(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "lock"
    }


@pytest.fixture
def refused(trained, capsys):
    """Run a command that must be refused, and return its one line."""

    def refused(job, *words, twin=trained, cfg=trained.parent / "tiny.cfg"):
        before = contents(trained)
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            call(job, twin, *([cfg] if cfg else []), *words)
        errors = capsys.readouterr().err
        assert ended.value.code == 2
        assert errors.startswith("error: ")
        assert errors.count("\n") == 1
        assert contents(trained) == before
        return errors

    return refused


CONFIGURATIONS = {
    "unknown option": ("train.batchsize=8", "batch_size"),
    "unknown section": ("trian.batch_size=8", "train"),
    "wrong type": ("train.batch_size='many'", "batch_size"),
    "unequal lists": ("model.up_filters=[8, 8, 8]", r"up_filters has 3 entries but up_strides has 2"),
    "strides": ("model.down_strides=[2, 4]", r"down_strides \[2, 4\] must be up_strides reversed"),
    "not divisible": ("data.target_res=10", "target_res"),
    "unknown source": ("data.dataset_source=digit", "digits"),
    "schedule": ("optimizer.warmup_steps=50", "warmup_steps"),
}


@pytest.mark.parametrize(("override", "message"), CONFIGURATIONS.values(), ids=CONFIGURATIONS)
@pytest.mark.parametrize("name", ["tiny", "new"])
def test_wrong_configuration(trained, refused, name, override, message):
    assert_matches(message, refused("train", f"run.name={name}", override))
    assert not (trained / "logs-new").exists(), "a refused run leaves nothing"


METROPLEX = {
    "patch": (("data.target_res=10",), "target_res 10 is not divisible by 4"),
    "pooling": (("model.enc_blocks='4d3,1x1'",), "'4d3' divides 4 by 3"),
    "encoder skips": (("model.enc_blocks='4x1,1x1'",), "'1x1' begins at resolution 1"),
    "decoder skips": (("model.dec_blocks='1x1,4x1'",), "'4x1' skips what comes before it"),
    "shrinking": (("model.custom_width_str='4:64,2:32'",), "shrinks from 64 at resolution 4 to 32 at 2"),
    "heads": (
        ("model.transformer=True", "model.enc_blocks=''", "model.dec_blocks=''", "model.base_hidden_res=4",
         "model.head_dim=48"),
        "head_dim 48 does not divide the width 64",
    ),
    "preset": (("model.enc_blocks=''", "model.dec_blocks=''", "model.prog_mode=1", "model.depth=13"),
               "no preset of depth 13"),
}  # fmt: skip


@pytest.mark.parametrize(("words", "message"), METROPLEX.values(), ids=METROPLEX)
def test_metroplex_that_does_not_fit_together(trained, refused, words, message):
    cfg = ROOT / "egs" / "metroplex" / "digits.cfg"
    assert_matches(message, refused("train", "run.name=new", "data.dataset_source=npy", *words, cfg=cfg))
    assert not (trained / "logs-new").exists()


INPAINTING = ("synthesis.synthesis_mode=inpainting",)
SUNDAE = {
    "factor that is no square": (("model.shorten_factor=2",), "2 is not a square number"),
    "factor that does not divide": (
        ("model.shorten_factor=36",),
        "needs a side divisible by 6: the grid of 8x8",
    ),
    "levels without a factor": (
        ("model.depth=(1, (1, 1, 1), 1)", "model.shorten_factor=(4,)"),
        "1 factors for the 2 levels of depth",
    ),
    "grid": (("data.grid=6",), r"set channels=1, grid=8"),
    "class": (("synthesis.classes=[3, 10]",), "classes holds 10: the model has 10 classes"),
    "box": ((*INPAINTING, "synthesis.inpaint_box=(6, 0, 4, 4)"), "extends beyond the 8x8 tokens"),
    "mask": ((*INPAINTING, "synthesis.mask_path=absent.png"), "mask_path .*absent.png cannot be used"),
    "weights of the passes": (("loss.unroll_weights=[1, 2, 3]",), "must be 2 numbers"),
}


@pytest.mark.parametrize(("words", "message"), SUNDAE.values(), ids=SUNDAE)
def test_sundae_that_does_not_fit_together(trained, refused, words, message):
    cfg = ROOT / "egs" / "sundae" / "digits.cfg"
    assert_matches(message, refused("train", "run.name=new", "train.total_train_steps=1", *words, cfg=cfg))
    assert not (trained / "logs-new").exists()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda content: content[:-2], "a_0.tfrecords, record 1: the file ends within it"),
        (lambda content: b"x" + content, "a_0.tfrecords, record 0: the checksum of its length is wrong"),
    ],
)
def test_damaged_records_are_named_before_anything_is_written(trained, refused, tmp_path, spoil, message):
    path = tmp_path / "a_0.tfrecords"
    write_tfrecords(path, [encode({"image": [b"one"]}), encode({"image": [b"two"]})])
    path.write_bytes(spoil(path.read_bytes()))
    paths = [f"data.{name}_data_path={path}" for name in ("train", "val", "synthesis")]
    assert_matches(message, refused("train", "run.name=new", "data.dataset_source=tfrecords", *paths))
    assert not (trained / "logs-new").exists()


@pytest.mark.parametrize("name", ["tiny", "new"])
def test_missing_package_is_reported_before_anything_is_written(trained, refused, monkeypatch, name):
    monkeypatch.setitem(sys.modules, "wandb", None)
    line = refused("train", f"run.name={name}", "run.wandb=True", "train.total_train_steps=5")
    assert_matches("wandb is True, but wandb is not installed", line)
    assert not (trained / "logs-new").exists()


def test_full_disk_at_the_first_start_leaves_nothing(trained, refused, monkeypatch):
    def full(source, target):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))

    monkeypatch.setattr(os, "replace", full)
    assert_matches("No space left", refused("train", "run.name=new"))
    assert not (trained / "logs-new").exists()


def test_missing_configuration(refused, tmp_path):
    assert_matches("absent.cfg", refused("train", cfg=tmp_path / "absent.cfg"))


@pytest.mark.parametrize("n_gpus", ["1", "10**9"])
@pytest.mark.parametrize("twin", TWINS)
def test_device_that_is_not_there(refused, trained, twin, n_gpus):
    line = refused("train", f"run.num_gpus={n_gpus}", "run.name=new", twin=trained.parent / twin)
    assert_matches("num_gpus", line)


def test_other_architecture_names_the_first_tensor_and_both_shapes(refused, trained):
    line = refused(
        "train",
        "run.name=other",
        "model.input_conv_filters=4",
        "--resume-from",
        trained / "logs-tiny",
    )
    shapes = r"shape \(4, 8, 1, 1\), .* \(2, 4, 1, 1\)"
    assert_matches(rf"step-\d+: tensor 'bottom_up\.blocks\.0.*' .* {shapes}", line)


@pytest.mark.parametrize(("made", "message"), [(False, "does not exist"), (True, "holds no checkpoint")])
def test_missing_checkpoint(refused, trained, tmp_path, made, message):
    if made:
        (tmp_path / "logs-x").mkdir()
    assert_matches(message, refused("train", "run.name=new", "--resume-from", tmp_path / "logs-x"))
    assert_matches("there is no run 'absent'", refused("synthesize", "run.name=absent"))


@pytest.mark.parametrize("damage", ["truncated", "foreign"])
def test_damaged_checkpoint(refused, trained, tmp_path, damage):
    shutil.copytree(trained / "logs-tiny", tmp_path / "torch_impl" / "logs-tiny")
    (step,) = (tmp_path / "torch_impl" / "logs-tiny" / "checkpoints").iterdir()
    file = step / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-5] if damage == "truncated" else b"\x80\x04something else")
    line = refused("train", "train.total_train_steps=5", twin=tmp_path / "torch_impl")
    assert_matches(r"no undamaged checkpoint .*model.safetensors", line)


FOLDERS = {
    "empty": (None, "train_data_path .* holds no pictures"),
    "wrong mode": ("16 bits", r"picture.png: mode I;16"),
    "not a picture": ("text", r"picture.png: not an image"),
}


@pytest.mark.parametrize(("kind", "message"), FOLDERS.values(), ids=FOLDERS)
def test_folder_of_pictures(refused, tmp_path, kind, message):
    folder = tmp_path / "pictures"
    folder.mkdir()
    if kind == "16 bits":
        Image.fromarray(np.zeros((8, 8), np.uint16)).save(folder / "picture.png")
    elif kind:
        (folder / "picture.png").write_text("no picture")
    paths = [f"data.{name}={folder}" for name in ("train_data_path", "val_data_path", "synthesis_data_path")]
    assert_matches(message, refused("train", "run.name=new", "data.dataset_source=custom", *paths))


def test_picture_of_another_size(refused, tmp_path):
    np.save(tmp_path / "pictures.npy", np.zeros((4, 9, 9, 1), np.uint8))
    names = ("train_data_path", "val_data_path", "synthesis_data_path")
    paths = [f"data.{name}={tmp_path / 'pictures.npy'}" for name in names]
    assert_matches("pictures.npy", refused("train", "run.name=new", "data.dataset_source=npy", *paths))


def test_architecture_of_a_run_cannot_change(refused):
    assert_matches("num_output_mixtures", refused("train", "model.num_output_mixtures=5"))


def test_encoding_without_statistics(trained, capsys):
    with pytest.raises(SystemExit, match="2"):
        call("synthesize", trained, trained.parent / "tiny.cfg", "synthesis.synthesis_mode=encoding")
    errors = capsys.readouterr().err
    assert_matches("div_stats first", errors)
    assert errors.count("\n") == 1


def test_run_directory_that_cannot_be_written(refused, tmp_path):
    twin = tmp_path / "torch_impl"
    twin.mkdir()
    (twin / "logs-tiny").write_text("a file where the run's folder should be")
    assert_matches("logs-tiny cannot be written", refused("train", twin=twin))
