"""For every model, a folder that one twin writes opens in the other; incomplete downloads are refused."""

import json
from importlib import import_module

import numpy as np
import pytest
from safetensors.numpy import load_file

from dioscuri.checkpoint.pretrained import origin_of, write_folder
from dioscuri.cli.convert import main as convert
from dioscuri.errors import UserError
from dioscuri.importers.open_model import open_published
from tests.support import tiny_maskgit, tiny_vqgan
from tests.support.networks import NETWORKS
from tests.support.published import recorded
from tests.support.published import write_folder as publish
from tests.support.twins import TWINS
from torch_impl.families.methods import methods_of


def module(twin):
    return import_module(f"{twin}.pretrained")


def weights(hparams):
    """Random weights under canonical names."""
    generator = np.random.default_rng(0)
    family = methods_of(hparams)
    return {
        name: generator.normal(size=shape).astype(np.float32)
        for name, shape in family.parameter_shapes().items()
        if not name.startswith("discriminator.")
    }


def content(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_folder_goes_through_both_twins_unchanged(tmp_path, name):
    hparams = NETWORKS[name]()
    write_folder(tmp_path / "first", hparams, weights(hparams))
    for twin in TWINS:
        model = module(twin).Pretrained.from_pretrained(tmp_path / "first")
        assert type(model) is not module(twin).Pretrained
        assert isinstance(type(model).from_pretrained(tmp_path / "first"), type(model))
        model.save_pretrained(tmp_path / twin)
        assert content(tmp_path / twin) == content(tmp_path / "first")
    assert len(content(tmp_path / "first")) == 2


def test_the_config_tells_no_path(tmp_path):
    hparams = tiny_maskgit.tiny("data.tokenizer_path=/secret/logs-x", "data.train_data_path=/secret/tokens")
    write_folder(tmp_path / "folder", hparams, weights(NETWORKS["maskgit"]()))
    assert "secret" not in (tmp_path / "folder" / "config.json").read_text()


@pytest.mark.parametrize("twin", TWINS)
def test_another_class_or_weights_of_another_shape_are_refused(tmp_path, twin):
    hparams = tiny_vqgan.tiny()
    write_folder(tmp_path / "folder", hparams, weights(hparams))
    other = import_module(f"{twin}.models.maskgit").MaskGitTransformer
    with pytest.raises(UserError, match="holds a Tokenizer, not a MaskGitTransformer"):
        other.from_pretrained(tmp_path / "folder")
    write_folder(tmp_path / "wrong", tiny_vqgan.tiny("model.z_channels=8", "model.embedding_dim=8"),
                 weights(hparams))  # fmt: skip
    with pytest.raises(UserError, match=r"has shape .*, but this architecture"):
        module(twin).Pretrained.from_pretrained(tmp_path / "wrong")
    with pytest.raises(UserError, match=r"holds no config\.json"):
        module(twin).Pretrained.from_pretrained(tmp_path / "nothing")


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("twin", TWINS)
def test_folders_of_open_muse_open(tmp_path, twin, file):
    folder = publish(tmp_path / "published", "maskgit_vqgan", file)
    opened = open_published(folder)
    module(twin).model_of(opened.hparams, opened.weights).save_pretrained(tmp_path / "own")
    actual, expected = load_file(tmp_path / "own" / "model.safetensors"), recorded("maskgit_vqgan")[1]
    assert actual.keys() == expected.keys()
    assert all(np.array_equal(actual[name], expected[name]) for name in expected)
    with pytest.raises(UserError, match=r"dioscuri\.(torch|jax)\.load opens"):
        module(twin).Pretrained.from_pretrained(folder)


@pytest.mark.parametrize("name", ["vqgan", "halton", "classifier", "hierarchical_vae", "text"])
def test_folders_become_runs_and_runs_folders(tmp_path, name):
    hparams = NETWORKS[name]()
    write_folder(tmp_path / "first", hparams, weights(hparams))
    words = [str(tmp_path / "first"), "--run", str(tmp_path / "logs-tiny")]
    convert(words)
    convert([str(tmp_path / "logs-tiny"), "--to-folder", str(tmp_path / "out")])
    first, out = content(tmp_path / "first"), content(tmp_path / "out")
    assert out["model.safetensors"] == first["model.safetensors"]
    config = json.loads(out["config.json"])
    assert config.pop("origin") == {**origin_of(tmp_path / "out"), "run": "tiny", "step": 0}
    assert config == json.loads(first["config.json"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "has format 2, but this version reads 1"),
        ({"hparams": 3}, "is not a complete configuration"),
        ({"hparams": {"run": {"family": "vqgan"}}}, "lacks"),
    ],
)
def test_damaged_configurations_are_reported(tmp_path, change, message):
    hparams = tiny_vqgan.tiny()
    write_folder(tmp_path, hparams, weights(hparams))
    config = json.loads((tmp_path / "config.json").read_text()) | change
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError) as caught:
        module("torch_impl").Pretrained.from_pretrained(tmp_path)
    assert message in str(caught.value)
