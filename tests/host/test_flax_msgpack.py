"""Reading of msgpack files that Flax wrote."""

from contextlib import suppress

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dioscuri.checkpoint.flax_msgpack import MAX_DEPTH, read_flax
from dioscuri.errors import UserError


class TestMsgpack:
    def write(self, tmp_path, tree):
        path = tmp_path / "checkpoint_1"
        path.write_bytes(msgpack.packb(tree))
        return path

    def array(self, array, code=1, **changes):
        parts = {"shape": list(array.shape), "dtype": array.dtype.name, "data": array.tobytes()} | changes
        return msgpack.ExtType(code, msgpack.packb(list(parts.values())))

    def test_equals_what_flax_wrote(self, tmp_path, monkeypatch):
        """Arrays of several types, scalars, complex numbers, and an array above the (lowered) chunk size."""
        from flax import serialization

        monkeypatch.setattr(serialization, "MAX_CHUNK_SIZE", 64)
        rng = np.random.default_rng(0)
        tree = {
            "big": rng.normal(size=(7, 11)).astype(np.float32),
            "small": {"int": np.arange(3), "bool": np.array([True, False]), "scalar": np.float32(2.5)},
            "half": rng.normal(size=(2, 2)).astype(np.float16),
            "empty": np.zeros((0, 2), np.float32),
            "plain": {"int": 3, "text": "x", "complex": 1 + 2j, "none": None},
        }
        path = tmp_path / "checkpoint_1"
        path.write_bytes(serialization.msgpack_serialize(tree))
        actual = read_flax(path)
        for name in ("big", "half", "empty"):
            np.testing.assert_array_equal(actual[name], tree[name], strict=True)
            assert actual[name].flags.writeable
        for name in ("int", "bool", "scalar"):
            np.testing.assert_array_equal(actual["small"][name], np.asarray(tree["small"][name]), strict=True)
        assert actual["plain"] == tree["plain"]

    def test_every_truncation_is_refused(self, tmp_path):
        content = self.write(tmp_path, {"a": self.array(np.arange(5.0)), "b": {"c": 1}}).read_bytes()
        path = tmp_path / "cut"
        for length in range(len(content)):
            path.write_bytes(content[:length])
            with pytest.raises(UserError, match="truncated or not a flax msgpack file"):
                read_flax(path)
        path.write_bytes(content + b"\0")
        with pytest.raises(UserError, match="truncated or not a flax msgpack file"):
            read_flax(path)

    @pytest.mark.parametrize(
        "changes",
        [
            {"shape": [4]},
            {"shape": [-5]},
            {"shape": [0, 10**12]},
            {"shape": [10**15]},
            {"shape": [1] * 100 + [5]},
            {"shape": "5"},
            {"shape": [5.0]},
            {"dtype": "object"},
            {"dtype": "float64,float64"},
            {"dtype": ["float64"]},
            {"data": "text"},
            {"data": b""},
        ],
    )
    def test_arrays_that_are_none_are_refused(self, tmp_path, changes):
        path = self.write(tmp_path, {"a": self.array(np.arange(5.0), **changes)})
        with pytest.raises(UserError, match=r"checkpoint_1 is truncated or not a flax msgpack file"):
            read_flax(path)

    def test_foreign_structures_are_refused(self, tmp_path):
        deep = {}
        for _ in range(MAX_DEPTH + 1):
            deep = {"a": deep}
        deeper = b"\x81\xa1a" * 5000 + b"\x01"
        chunked = {"__msgpack_chunked_array__": True, "shape": {"0": 4}, "chunks": {"0": 1}}
        foreign = [
            [1, 2],
            {"a": msgpack.ExtType(9, b"x")},
            {"a": msgpack.ExtType(1, b"\xc1")},
            {"a": msgpack.ExtType(2, b"\x01")},
            deep,
            {"a": chunked},
            {"a": {**chunked, "chunks": {"0": self.array(np.zeros(3))}}},
            {"a": {**chunked, "shape": 4}},
            {1: 2},
        ]
        for content in (*(msgpack.packb(tree) for tree in foreign), deeper, b"PK\3\4 not this", b""):
            path = tmp_path / "foreign"
            path.write_bytes(content)
            with pytest.raises(UserError, match="foreign is truncated or not a flax msgpack file"):
                read_flax(path)

    @given(content=st.binary(max_size=200))
    @settings(max_examples=200, deadline=None)
    def test_any_bytes_are_read_or_refused(self, tmp_path_factory, content):
        path = tmp_path_factory.mktemp("bytes") / "file"
        path.write_bytes(b"\x81" + content)
        with suppress(UserError):
            read_flax(path)

    def test_a_missing_file_is_an_error(self, tmp_path):
        with pytest.raises(UserError, match="nowhere cannot be read: No such file"):
            read_flax(tmp_path / "nowhere")
