"""Weights of LPIPS are read under their published names, and missing ones are named."""

import numpy as np
import pytest
import safetensors.numpy

from dioscuri.errors import UserError
from dioscuri.families.vqgan.lpips import BLOCKS, weight_shapes
from dioscuri.families.vqgan.lpips_weights import read_lpips


@pytest.fixture(scope="module")
def weights():
    """A distinct value for every tensor."""
    shapes = weight_shapes().items()
    return {name: np.full(shape, index, np.float32) for index, (name, shape) in enumerate(shapes)}


def save(path, tensors):
    safetensors.numpy.save_file(tensors, path)
    return str(path)


def published_linear(weights):
    return {
        name.replace(".weight", ".model.1.weight"): array.reshape(1, -1, 1, 1)
        for name, array in weights.items()
        if name.startswith("lin")
    }


def assert_same(actual, weights):
    assert set(actual) == set(weights)
    for name, array in weights.items():
        np.testing.assert_array_equal(actual[name], array, err_msg=name)


def test_two_files_as_published(tmp_path, weights):
    vgg = {name: array for name, array in weights.items() if name.startswith("features")}
    vgg["classifier.0.weight"] = np.zeros((2, 2), np.float32)
    actual = read_lpips(
        save(tmp_path / "lpips.safetensors", published_linear(weights)),
        save(tmp_path / "vgg.safetensors", vgg),
    )
    assert_same(actual, weights)


def test_one_file_with_slices(tmp_path, weights):
    tensors = published_linear(weights)
    for block, convolutions in enumerate(BLOCKS, start=1):
        for index in convolutions:
            for leaf in ("weight", "bias"):
                tensors[f"net.slice{block}.{index}.{leaf}"] = weights[f"features.{index}.{leaf}"]
    assert_same(read_lpips(save(tmp_path / "all.safetensors", tensors)), weights)


def test_what_is_missing_is_named(tmp_path, weights):
    linear = save(tmp_path / "lpips.safetensors", published_linear(weights))
    with pytest.raises(UserError, match=r"lpips\.safetensors.*'features\.0\.weight'"):
        read_lpips(linear)
    broken = tmp_path / "vgg.safetensors"
    broken.write_bytes(b"no tensors")
    with pytest.raises(UserError, match="not a safetensors, PyTorch or flax msgpack file"):
        read_lpips(linear, str(broken))
    with pytest.raises(UserError, match=r"absent\.safetensors cannot be read"):
        read_lpips(str(tmp_path / "absent.safetensors"))
