"""The arrangement of devices: what a run's options and the command line say, and what is refused."""

from types import SimpleNamespace

import pytest

from dioscuri.errors import UserError
from dioscuri.hparams import load
from dioscuri.plans.mesh import MeshShape, mesh_of, read_mesh


def arranged(shard, shard_devices, devices):
    return str(mesh_of(SimpleNamespace(shard=shard, shard_devices=shard_devices), devices))


def test_copies_of_the_state_take_devices_that_follow_each_other():
    assert arranged("none", 0, 64) == "data=64,shard=1"
    assert arranged("parameters", 0, 64) == "data=1,shard=64"
    assert arranged("optimizer", 8, 64) == "data=8,shard=8"
    assert arranged("optimizer", 8, 1) == "data=1,shard=1"  # the trained model opens on one device
    with pytest.raises(UserError, match="shard_devices is 6, which does not divide the 8 devices"):
        arranged("optimizer", 6, 8)


def test_copies_need_a_shared_state():
    words = "train.shard_devices=2"
    with pytest.raises(UserError, match="shard_devices applies only if"):
        load("egs/classifier/digits.cfg", [words])
    with pytest.raises(UserError, match="shard_devices is 1, but one device shares with none"):
        load("egs/classifier/digits.cfg", ["train.shard=optimizer", "train.shard_devices=1"])
    assert load("egs/classifier/digits.cfg", ["train.shard=optimizer", words]).train.shard_devices == 2


def test_a_mesh_is_read_by_its_axes():
    assert read_mesh("data=8, shard = 4", "--mesh") == MeshShape(data=8, shard=4)
    assert read_mesh("shard=8", "--mesh").devices == 8
    for wrong in ("8x8", "model=2", "data=0", "data=2,data=4", "data=8,", "shard=two", ""):
        with pytest.raises(UserError) as error:
            read_mesh(wrong, "--mesh")
        assert str(error.value).startswith(f"--mesh '{wrong}' is not a mesh: give whole numbers")
