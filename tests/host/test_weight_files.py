"""Weights are read from all files and entries that authors use; averaged ones are preferred."""

import json
from collections import OrderedDict

import numpy as np
import pytest
import torch
from flax.serialization import msgpack_serialize
from safetensors.torch import save_file

from dioscuri.checkpoint.tensor_files import read_weights
from dioscuri.checkpoint.weight_files import choose
from dioscuri.errors import UserError

RAW = {"encoder.conv.weight": torch.full((2, 3), 1.0), "encoder.conv.bias": torch.full((2,), 2.0)}
EMA = {name: tensor + 10 for name, tensor in RAW.items()}


def prefixed(prefix, state):
    return {prefix + name: tensor for name, tensor in state.items()}


def dotless(state):
    return {name.replace(".", ""): tensor for name, tensor in state.items()}


def read(path, content, choice=None):
    torch.save(content, path)
    return read_weights(path, choice)


def assert_is(arrays, state):
    assert arrays.keys() == state.keys()
    for name, tensor in state.items():
        np.testing.assert_array_equal(arrays[name], tensor.float().numpy())


ENTRIES = (
    "ema", "model_ema", "state_dict_ema", "ema_state_dict", "ema_model_state_dict", "params_ema"
)  # fmt: skip
BOTH = {
    **{f"{name} beside model": {"model": RAW, name: EMA, "steps": 3} for name in ENTRIES},
    "ema before": {"ema": EMA, "model": RAW},
    "within a state dict": {"state_dict": {"model": RAW, "ema": EMA}},
    "wrapped": {"ema": {"state_dict": prefixed("module.", EMA)}, "state_dict": RAW},
    "with a counter": {"model": RAW, "ema": {"decay": 0.99, "num_updates": 3, "shadow": EMA}},
    "beside tensors": {**RAW, "ema": EMA},
    "in the order of parameters": {"model": RAW, "ema": {"shadow_params": list(EMA.values()), "decay": 0.9}},
    "of Lightning": {"state_dict": {**RAW, **prefixed("model_ema.", dotless(EMA)),
                                    "model_ema.decay": torch.tensor(0.9)}},
    "of ema_pytorch": {**prefixed("online_model.", RAW), **prefixed("ema_model.", EMA),
                       "initted": torch.tensor(True), "step": torch.tensor(3)},
}  # fmt: skip


@pytest.mark.parametrize("layout", BOTH)
def test_the_average_comes_first_and_raw_weights_are_a_choice(tmp_path, layout):
    """0.1.0 silently used the raw weights."""
    average, raw = (read(tmp_path / "x", BOTH[layout], choice) for choice in (None, "raw"))
    assert_is(average.arrays, EMA)
    assert "took the averaged weights" in average.note
    assert_is(raw.arrays, RAW)
    assert "took the raw weights" in raw.note
    assert "averaged ones are there, too" in raw.note


@pytest.mark.parametrize(
    "content",
    [
        {"ema": EMA},
        {"model_ema": EMA, "epoch": 3},
        {"state_dict_ema": prefixed("module.", EMA), "optimizer": {"state": {}}},
        {"ema_state_dict": {"model": EMA}},
        prefixed("ema_model.", EMA),
        {"n_averaged": torch.tensor(4), **prefixed("module.", EMA)},
    ],
)
def test_an_average_alone_is_taken(tmp_path, content):
    """0.1.0 did not recognise its weights."""
    assert_is(read(tmp_path / "x", content).arrays, EMA)
    with pytest.raises(UserError, match="holds only averaged weights"):
        read(tmp_path / "x", content, "raw")


def test_without_an_average_the_output_says_so(tmp_path):
    assert "took the weights (model)" in read(tmp_path / "x", {"model": RAW}).note


def test_an_average_that_does_not_fit_is_reported(tmp_path):
    content = {"model": RAW, "ema": {"shadow_params": [torch.ones(7)]}}
    with pytest.raises(UserError, match="does not fit the raw weights"):
        read(tmp_path / "x", content)
    assert_is(read(tmp_path / "x", content, "raw").arrays, RAW)


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "module.module."]
)
def test_prefixes_of_wrappers_are_taken_off(tmp_path, prefix):
    for content in (prefixed(prefix, RAW), {"state_dict": prefixed(prefix, RAW)}):
        assert_is(read(tmp_path / "x", content).arrays, RAW)
    save_file(prefixed(prefix, RAW), tmp_path / "x.safetensors")
    assert_is(read_weights(tmp_path / "x.safetensors").arrays, RAW)


def test_a_compiled_part_has_its_prefix_inside(tmp_path):
    content = {name.replace("encoder.", "encoder._orig_mod."): tensor for name, tensor in RAW.items()}
    assert_is(read(tmp_path / "x", content).arrays, RAW)


def test_two_tensors_of_one_name_are_reported(tmp_path):
    with pytest.raises(UserError, match="two tensors have the same name"):
        read(tmp_path / "x", {**RAW, **prefixed("module.", RAW)})


def write_sharded(folder, kind, variant=""):
    """The layout of diffusers and transformers: two shards and an index."""
    stem = "diffusion_pytorch_model"
    names = [f"{stem}{variant}-0000{i}-of-00002.{kind}" for i in (1, 2)]
    folder.mkdir()
    for name, (key, tensor) in zip(names, RAW.items(), strict=True):
        save_file({key: tensor}, folder / name) if kind == "safetensors" else torch.save(
            {key: tensor}, folder / name
        )
    index = {"metadata": {}, "weight_map": dict(zip(RAW, names, strict=True))}
    (folder / f"{stem}.{kind}.index{variant}.json").write_text(json.dumps(index))
    return folder


@pytest.mark.parametrize("variant", ["", ".fp16"])
@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_sharded_weights_are_joined(tmp_path, kind, variant):
    assert_is(read_weights(write_sharded(tmp_path / "folder", kind, variant)).arrays, RAW)


def test_a_missing_shard_is_named(tmp_path):
    folder = write_sharded(tmp_path / "folder", "bin")
    (folder / "diffusion_pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(UserError, match=r"index\.json lists .*00002-of-00002\.bin, which is missing"):
        read_weights(folder)


@pytest.mark.parametrize(
    "content",
    ["{", "[]", "{}", '{"weight_map": {}}', '{"weight_map": {"a": "../b"}}', '{"weight_map": {"a": 3}}'],
)
def test_a_damaged_index_is_reported(tmp_path, content):
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(UserError, match="is not an index of weights"):
        read_weights(tmp_path)


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["model.fp16.safetensors"], "model.fp16.safetensors"),
        (["pytorch_model.fp16.bin", "config.json"], "pytorch_model.fp16.bin"),
        (["model.fp16.safetensors", "model.safetensors"], "model.safetensors"),
        (["pytorch_model.bin", "model.fp16.safetensors"], "model.fp16.safetensors"),
        (
            ["model.safetensors.index.json", "model-00001-of-00002.safetensors"],
            "model.safetensors.index.json",
        ),
        (
            ["diffusion_pytorch_model.non_ema.bin", "diffusion_pytorch_model.bin"],
            "diffusion_pytorch_model.bin",
        ),
        (["optimizer.bin", "model.onnx", "model-00001-of-00002.safetensors"], None),
    ],
)
def test_which_file_of_a_folder_is_taken(names, chosen):
    assert choose(names) == chosen


def test_raw_weights_are_those_of_the_variant_without_average():
    names = ["diffusion_pytorch_model.non_ema.bin", "diffusion_pytorch_model.bin"]
    assert choose(names, "raw") == names[0]


def test_half_precision_becomes_float32(tmp_path):
    state = {"a": torch.randn(3).half(), "b": torch.randn(2, 2).bfloat16(), "n": torch.tensor([3])}
    save_file(state, tmp_path / "x.safetensors")
    for arrays in (read_weights(tmp_path / "x.safetensors").arrays, read(tmp_path / "x", state).arrays):
        assert [arrays[name].dtype for name in "abn"] == [np.float32, np.float32, np.int64]
        assert_is(arrays, state)


def test_flax_files_have_averages_too(tmp_path):
    def tree(state):
        return {"conv": {name.rpartition(".")[2]: tensor.numpy() for name, tensor in state.items()}}

    (tmp_path / "x").write_bytes(msgpack_serialize({"params": tree(RAW), "ema_params": tree(EMA), "step": 3}))
    for choice, state in ((None, EMA), ("raw", RAW)):
        arrays = read_weights(tmp_path / "x", choice).arrays
        np.testing.assert_array_equal(arrays["conv/weight"], state["encoder.conv.weight"].numpy())


@pytest.mark.parametrize("zipped", [True, False])
def test_files_of_torch_are_read_without_torch(tmp_path, zipped):
    """Parameters, views, dtypes, trainers' objects and optimiser states, in the new and the old layout."""
    base = torch.arange(24.0)
    state = OrderedDict(
        parameter=torch.nn.Parameter(torch.randn(3)),
        marked=torch.nn.Parameter(torch.randn(2)),
        view=base[2:20:3],
        transposed=base.reshape(4, 6).t(),
        expanded=torch.arange(3.0).expand(2, 3),
        empty=torch.zeros(0, 3),
        scalar=torch.tensor(3.5),
        long=torch.tensor([2**40]),
        truth=torch.tensor([True, False]),
        double=torch.tensor([0.5, 3.0], dtype=torch.float64),
    )
    state["marked"].note = "an attribute"
    state._metadata = {"": {"version": 1}}
    content = {"model": state, "lr": np.float64(0.5), "size": torch.Size([2, 3]), "dtype": torch.float16}
    torch.save(content, tmp_path / "x", _use_new_zipfile_serialization=zipped)
    arrays = read_weights(tmp_path / "x").arrays
    assert arrays.keys() == state.keys()
    for name, tensor in state.items():
        np.testing.assert_array_equal(arrays[name], tensor.detach().numpy(), err_msg=name)
