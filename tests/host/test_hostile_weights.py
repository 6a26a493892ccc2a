"""Small files that would fill memory or never end give one line at once; nothing in them is executed."""

import contextlib
import io
import json
import os
import pickle
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from dioscuri.checkpoint import files as checkpoint_files
from dioscuri.checkpoint import weight_files
from dioscuri.checkpoint.flax_msgpack import read_flax
from dioscuri.checkpoint.pretrained import read_folder
from dioscuri.checkpoint.tensor_files import read_config, read_weights
from dioscuri.checkpoint.torch_files import read_torch
from dioscuri.data.numpy_files import Damaged, read_npy
from dioscuri.data.texts import read_null
from dioscuri.errors import UserError
from dioscuri.families.latent_models.modes.encodings import read_shard
from dioscuri.files import file_sha256, read_json
from dioscuri.pickles import Foreign, read_plain
from dioscuri.run.logs import JsonLines


def bomb_of_tuples():
    """A key that is a tuple of the same tuple twice, nested 60 times: hashing it would take forever."""
    inner = b"K\x01\x85q\x00" + b"".join(
        b"0h" + bytes([i]) + b"h" + bytes([i]) + b"\x86q" + bytes([i + 1]) for i in range(60)
    )
    return b"\x80\x02}" + inner + b"K\x01s."


def bomb_of_lists():
    value = [1.0]
    for _ in range(40):
        value = [value, value]
    return pickle.dumps(value)


PICKLES = {
    "tuples as a key": bomb_of_tuples(),
    "lists": bomb_of_lists(),
    "a memory of 32 GB": b"\x80\x02K\x01r\xff\xff\xff\xff.",
    "itself": b"\x80\x02]q\x00h\x00a.",
    "bytes to be made": b"\x80\x02cbuiltins\nbytearray\n\x8a\x06\x00\x00\x00\x00\x00\x01\x85R.",
    "a function changed": b"\x80\x02c_codecs\nencode\nN}X\x0c\x00\x00\x00__defaults__NsN\x86b.",
}


@pytest.mark.parametrize("name", PICKLES)
def test_pickles(name):
    with pytest.raises(Foreign):
        read_plain(PICKLES[name])


def archive(path, data, storages=None, compression=zipfile.ZIP_STORED):
    """An archive like that of torch.save around a given pickle."""
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("x/data.pkl", data)
        for key, content in (storages or {}).items():
            file.writestr(f"x/data/{key}", content)
    return path


class Tensor:
    """A tensor of given shape and strides on a storage of four numbers."""

    def __init__(self, shape, strides, offset=0):
        self.given = (offset, shape, strides, False, {})


def torch_pickle(value):
    class Pickler(pickle.Pickler):
        def reducer_override(self, item):
            if isinstance(item, Tensor):
                return torch._utils._rebuild_tensor_v2, (torch.UntypedStorage, *item.given)
            return NotImplemented

        def persistent_id(self, item):
            return ("storage", torch.FloatStorage, "0", "cpu", 4) if item is torch.UntypedStorage else None

    stream = io.BytesIO()
    Pickler(stream, 2).dump(value)
    return stream.getvalue()


def nested(depth):
    value = {"a": Tensor((4,), (1,))}
    for _ in range(depth):
        value = {"a": value, "b": value}
    return value


TORCH = {
    "an expanded tensor": ({"a": Tensor((10**6, 10**6), (0, 0))}, "larger than its storage"),
    "many expanded tensors": (
        {str(i): Tensor((1 << 20,), (0,)) for i in range(20)},
        "larger than its storage",
    ),
    "a tensor past the end": ({"a": Tensor((4,), (1,), 1)}, "past the end of its storage"),
    "negative strides": ({"a": Tensor((2,), (-1,), 1)}, "strides"),
    "nested aliases": (nested(50), "nested absurdly often"),
}


@pytest.mark.parametrize("name", TORCH)
def test_tensors_of_torch(tmp_path, name):
    content, message = TORCH[name]
    archive(tmp_path / "x", torch_pickle(content), {"0": bytes(16)})
    with pytest.raises(UserError, match=message) as caught:
        read_weights(tmp_path / "x")
    assert "\n" not in str(caught.value)


def test_the_same_archive_with_a_sound_tensor_is_read(tmp_path):
    archive(
        tmp_path / "x",
        torch_pickle({"a": Tensor((2, 2), (1, 2))}),
        {"0": np.arange(4.0, dtype="<f4").tobytes()},
    )
    np.testing.assert_array_equal(read_weights(tmp_path / "x").arrays["a"], [[0, 2], [1, 3]])


def test_tensors_that_share_memory(tmp_path):
    """A thousand names of one tensor; in half precision, each would become a copy."""
    shared = torch.zeros(1 << 16, dtype=torch.float16)
    torch.save({str(i): shared for i in range(1000)}, tmp_path / "x")
    with pytest.raises(UserError, match="its tensors share memory"):
        read_weights(tmp_path / "x")


def test_members_that_are_compressed(tmp_path):
    archive(
        tmp_path / "x", torch_pickle({"a": Tensor((4,), (1,))}), {"0": bytes(1 << 24)}, zipfile.ZIP_DEFLATED
    )
    with pytest.raises(UserError, match="its members are compressed"):
        read_weights(tmp_path / "x")


def test_overlapping_tensors_of_safetensors(tmp_path):
    header = {str(i): {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]} for i in range(100)}
    text = json.dumps(header).encode()
    (tmp_path / "x").write_bytes(len(text).to_bytes(8, "little") + text + bytes(16))
    with pytest.raises(UserError, match="is truncated or not a safetensors file"):
        read_weights(tmp_path / "x")


@pytest.mark.parametrize("damage", ["cut", "header", "shape"])
def test_damaged_safetensors(tmp_path, damage):
    save_file({"a": np.ones((2, 2), np.float32)}, tmp_path / "x")
    content = (tmp_path / "x").read_bytes()
    changed = {
        "cut": content[:-3],
        "header": (2**40).to_bytes(8, "little") + content[8:],
        "shape": content.replace(b"[2,2]", b"[9,9]"),
    }[damage]
    (tmp_path / "x").write_bytes(changed)
    with pytest.raises(UserError, match="is truncated or not a safetensors file"):
        read_weights(tmp_path / "x")


ALIASES = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 60))
MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}\n" for i in range(1, 60))
YAML = {
    "aliases": ALIASES,
    "merges": MERGES,
    "itself": "a: &a [*a]\n",
    "depth": "[" * 5000,
    "size": "a: 1\n#" + "x" * (1 << 22),
}


@pytest.mark.parametrize("name", YAML)
def test_yaml(tmp_path, name):
    (tmp_path / "x.yaml").write_text(YAML[name])
    with pytest.raises(UserError, match=r"x\.yaml is (not valid yaml|too large)"):
        read_config(tmp_path / "x.yaml")


def test_aliases_that_a_person_writes_are_read(tmp_path):
    (tmp_path / "x.yaml").write_text("a: &a {x: 1}\nb: *a\nc: {<<: *a, y: 2}\n")
    assert read_config(tmp_path / "x.yaml") == {"a": {"x": 1}, "b": {"x": 1}, "c": {"x": 1, "y": 2}}


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a": "' + "x" * (1 << 22) + '"}', "1" * 10_000])
def test_json(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UserError, match=r"x\.json is (not valid json|too large)"):
        read_config(tmp_path / "x.json")


@pytest.mark.parametrize("read", [read_weights, read_config])
def test_pipes_and_devices(tmp_path, read):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(UserError, match="cannot be read: it is no plain file"):
            read(path)


def folder_of(path):
    return read_folder(path.parent)


def encodings_shard(path):
    return read_shard(path.parent, {"file": path.name, "sha256": "", "keys": []})


@pytest.mark.parametrize(
    "read",
    [
        partial(read_json, what="index"),
        partial(checkpoint_files.read_tensors, entry={}),
        partial(JsonLines, step=0),
        checkpoint_files.read_json,
        encodings_shard,
        file_sha256,
        folder_of,
        read_flax,
        read_npy,
        read_null,
        read_torch,
        weight_files.shards,
    ],
)
def test_what_a_program_wrote_and_is_a_pipe_now(tmp_path, read):
    """Every such read would wait for ever."""
    (tmp_path / "config.json").write_text('{"library": "dioscuri", "format": 1, "hparams": {}}')
    os.mkfifo(tmp_path / "model.safetensors")
    with pytest.raises((UserError, checkpoint_files.Damage, Damaged, OSError), match="it is no plain file"):
        read(tmp_path / "model.safetensors")


@pytest.mark.parametrize("length", [10**12, -1])
def test_a_storage_of_the_old_layout_that_declares_too_much(tmp_path, length):
    torch.save({"a": torch.ones(3)}, tmp_path / "x", _use_new_zipfile_serialization=False)
    written = b"K\x03Nt"  # the length, no view
    content = (tmp_path / "x").read_bytes()
    assert content.count(written) == 1
    number = pickle.dumps(length, 2)[2:-1]
    (tmp_path / "x").write_bytes(content.replace(written, number + b"Nt"))
    with pytest.raises(UserError, match="is truncated or holds more than weights"):
        read_weights(tmp_path / "x")


@pytest.mark.parametrize("zipped", [True, False])
def test_damaged_files_of_torch_are_one_line(tmp_path, zipped):
    """Bytes are changed at random several hundred times."""
    torch.save({"a": torch.ones(3), "b": [1, "x"]}, tmp_path / "x", _use_new_zipfile_serialization=zipped)
    content, generator = (tmp_path / "x").read_bytes(), np.random.default_rng(0)
    for _ in range(300):
        changed = bytearray(content)
        changed[generator.integers(len(content))] = generator.integers(256)
        (tmp_path / "x").write_bytes(changed)
        with contextlib.suppress(UserError):
            read_weights(tmp_path / "x")
