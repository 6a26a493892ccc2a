"""Published feature networks are the same in both twins, from the published files."""

from math import prod

import jax
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.numpy import save_file

from dioscuri.cli.evaluate import evaluate, make_engine, make_network
from dioscuri.errors import UserError
from dioscuri.evaluation import inception_weights as inception_import
from dioscuri.metrics.inception import CLASSES, EPSILON, FEATURES, convolutions, resizing, weight_shapes
from jax_impl.models.inception import inception as jax_inception
from torch_impl.models.inception import inception as torch_inception

PICTURES = np.random.default_rng(3).integers(0, 256, (6, 12, 9, 3), np.uint8)


def published():
    """Tensors under the names of the published file."""
    generator = np.random.default_rng(0)
    arrays = {"fc.weight": generator.normal(size=(CLASSES, FEATURES)), "fc.bias": np.ones(CLASSES)}
    for conv in convolutions():
        fan = conv.inputs * prod(conv.kernel)
        arrays[f"{conv.name}.conv.weight"] = generator.normal(
            0, np.sqrt(2 / fan), (conv.outputs, conv.inputs, *conv.kernel)
        )
        for name, low in (("weight", 0.5), ("bias", -0.5), ("running_mean", -0.5), ("running_var", 0.5)):
            arrays[f"{conv.name}.bn.{name}"] = generator.uniform(low, low + 1, conv.outputs)
        arrays[f"{conv.name}.bn.num_batches_tracked"] = np.zeros((), np.int64)
    return {k: a if a.dtype == np.int64 else a.astype(np.float32) for k, a in arrays.items()}


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("inception") / "inception.safetensors"
    save_file(published(), path)
    return path


@pytest.fixture(scope="module")
def folded(weights_file):
    return inception_import.read_inception(weights_file)


@pytest.fixture
def pictures(tmp_path):
    np.save(tmp_path / "made.npy", PICTURES)
    np.save(tmp_path / "real.npy", PICTURES[::-1] // 2)
    return [str(tmp_path / "made.npy"), str(tmp_path / "real.npy"), "--k", "1"]


def test_inception_is_the_same_in_both_twins(folded):
    weights = folded
    with torch.inference_mode():
        expected = torch_inception(
            torch.from_numpy(PICTURES[:2]), {k: torch.from_numpy(a) for k, a in weights.items()}
        )
    with jax.default_matmul_precision("highest"):
        actual = jax.jit(jax_inception)(PICTURES[:2], weights)
    for one, other in zip(actual, expected, strict=True):
        assert np.abs(np.asarray(one) - other.numpy()).max() <= 1e-4 * np.abs(other.numpy()).max()


def test_inception_has_the_published_size():
    """95,628,359 bytes: four numbers per batch-norm channel, their counters, and the tensors' names."""
    norms = 4 * sum(conv.outputs for conv in convolutions()) - sum(conv.outputs for conv in convolutions())
    numbers = sum(prod(shape) for shape in weight_shapes().values()) + norms + CLASSES
    assert 95_628_359 - 100_000 < 4 * numbers + 8 * len(convolutions()) < 95_628_359


def test_batch_norms_become_part_of_convolutions(folded):
    arrays, conv = published(), convolutions()[0]
    x = torch.randn(1, 3, 9, 9)
    names = ("running_mean", "running_var", "weight", "bias")
    given = {name: torch.from_numpy(arrays[f"{conv.name}.bn.{name}"]) for name in names}
    y = F.conv2d(x, torch.from_numpy(arrays[f"{conv.name}.conv.weight"]))
    y = F.batch_norm(
        y, given["running_mean"], given["running_var"], given["weight"], given["bias"], eps=EPSILON
    )
    tensors = [torch.from_numpy(folded[f"{conv.name}.{part}"]) for part in ("weight", "bias")]
    torch.testing.assert_close(F.conv2d(x, *tensors), y, rtol=1e-5, atol=1e-5)


def test_resizing_begins_at_the_first_pixel():
    expected = [[1, 0], [0.5, 0.5], [0, 1], [0, 1]]
    np.testing.assert_array_equal(resizing(2, 4), expected)
    np.testing.assert_array_equal(resizing(5, 5), np.eye(5))


def test_pictures_get_an_fid(weights_file, pictures, capsys):
    words = [*pictures, "--extractor", "inception", "--weights", str(weights_file)]
    evaluate(words, make_engine, make_network)
    printed = capsys.readouterr().out
    assert f"extractor: Inception-v3 of FID, {weights_file}" in printed
    assert {"FID", "KID", "IS"} <= {line.split(" ")[0] for line in printed.splitlines()}


@pytest.mark.parametrize("name", ["dinov2", "clip"])
def test_pictures_get_distances_by_encoders(tmp_path, pictures, name, capsys):
    import transformers

    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 14}
    if name == "clip":
        config = transformers.CLIPVisionConfig(**small, image_size=28, intermediate_size=8, projection_dim=5)
        model = transformers.CLIPVisionModelWithProjection(config)
    else:
        model = transformers.Dinov2Model(transformers.Dinov2Config(**small, image_size=28, mlp_ratio=1))
    model.save_pretrained(tmp_path / "encoder")
    words = [*pictures, "--extractor", name, "--weights", str(tmp_path / "encoder")]
    evaluate(words, make_engine, make_network)
    assert f"FD-{name}" in capsys.readouterr().out
    other = {"dinov2": "clip", "clip": "dinov2"}[name]
    words[words.index(name)] = other
    with pytest.raises(UserError, match="has type"):
        evaluate(words, make_engine, make_network)
    with pytest.raises(UserError, match="leave --twin out"):
        evaluate([*words, "--twin", "jax"], make_engine, make_network)


def test_wrong_weights_are_one_clear_line(tmp_path, weights_file, pictures):
    content = weights_file.read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(content[: len(content) // 2])
    save_file({"fc.weight": np.zeros((2, 2), np.float32)}, tmp_path / "other.safetensors")
    for file, message in (
        ("cut.safetensors", "is truncated or not a safetensors file"),
        ("other.safetensors", "no weights of FID's Inception network"),
        ("nowhere", "cannot be read"),
    ):
        with pytest.raises(UserError, match=message) as refused:
            evaluate(
                [*pictures, "--extractor", "inception", "--weights", str(tmp_path / file)],
                make_engine,
                make_network,
            )
        assert "\n" not in str(refused.value)


def test_without_network_there_is_one_clear_line(tmp_path, monkeypatch, pictures):
    monkeypatch.setenv("DIOSCURI_CACHE", str(tmp_path))
    monkeypatch.setattr(inception_import, "URL", "http://127.0.0.1:9/inception.pth")
    monkeypatch.setattr("time.sleep", lambda _: None)
    (tmp_path / "inception.pth").write_bytes(b"something else")
    with pytest.raises(UserError, match="run the command again"):
        evaluate([*pictures, "--extractor", "inception"], make_engine, make_network)
    assert (tmp_path / "inception.pth.broken").read_bytes() == b"something else"


def test_pictures_of_mixed_sizes_are_resized_one_by_one(weights_file):
    """In both twins, the features of a list equal those of each picture alone."""
    sizes = ((12, 9), (20, 31), (12, 9))
    pictures = [PICTURES[0][:h, :w] if h <= 12 else np.resize(PICTURES, (h, w, 3)) for h, w in sizes]
    together = {}
    for twin in ("torch", "jax"):
        network, _ = make_network(twin, "inception", str(weights_file))
        together[twin], logits = network(pictures)
        assert logits.shape == (3, CLASSES)
        alone = network(pictures[1:2])[0]
        np.testing.assert_allclose(together[twin][1:2], alone, rtol=1e-4, atol=1e-4 * np.abs(alone).max())
    largest = np.abs(together["torch"]).max()
    np.testing.assert_allclose(together["jax"], together["torch"], rtol=0, atol=1e-4 * largest)
