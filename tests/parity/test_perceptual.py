"""Perceptual losses on the logits of ImageNet classifiers, beside the networks of transformers."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from transformers import (
    ConvNextConfig,
    ConvNextForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
)

from dioscuri.errors import UserError
from dioscuri.families.vqgan import imagenet_classifiers as tables
from dioscuri.families.vqgan.options import Loss
from dioscuri.families.vqgan.perceptual import read_perceptual, shares, tensors_of
from jax_impl.families.vqgan import TokenizerMethods as jax_methods
from tests.support.tiny_vqgan import tiny
from torch_impl.families.vqgan import TokenizerMethods as torch_methods
from torch_impl.models import imagenet_classifiers as in_torch

SIZES = tables.Sizes((16, 24), (1, 2), classes=7)
SHAPES = {"convnext": tables.convnext_shapes, "resnet": tables.resnet_shapes}
FULL = {"convnext": 50_223_688, "resnet": 25_557_032 + 2 * 26_560}
"""Numbers of torchvision's parameters; with the running moments of ResNet's norms."""


def weights_of(name, seed=0):
    rng = np.random.default_rng(seed)
    return {
        key: np.abs(rng.normal(1, 0.2, shape)) if "running_var" in key else rng.normal(0, 0.2, shape)
        for key, shape in SHAPES[name](SIZES).items()
    }


def pictures(side=(40, 28), channels=3, dtype=np.float64):
    return np.random.default_rng(1).random((2, 2, *side, channels)).astype(dtype)


def reference(name):
    """The network of transformers that has these sizes, and the names of its tensors."""
    widths, depths = list(SIZES.widths), list(SIZES.depths)
    if name == "convnext":
        config = ConvNextConfig(
            num_stages=2, hidden_sizes=widths, depths=depths, num_labels=7, layer_norm_eps=1e-6
        )
        return ConvNextForImageClassification(config), _convnext_name
    config = ResNetConfig(embedding_size=widths[0] // 4, hidden_sizes=widths, depths=depths, num_labels=7)
    return ResNetForImageClassification(config), _resnet_name


def _convnext_name(name):
    first = {"0.0": "patch_embeddings", "0.1": "layernorm"}
    if matched := re.fullmatch(r"features\.(0\.\d)\.(.*)", name):
        return f"convnext.embeddings.{first[matched[1]]}.{matched[2]}"
    if matched := re.fullmatch(r"classifier\.(\d)\.(.*)", name):
        return {"0": "convnext.layernorm", "2": "classifier"}[matched[1]] + f".{matched[2]}"
    _, number, block, rest = name.split(".", 3)
    stage = f"convnext.encoder.stages.{(int(number) - 1) // 2}"
    if int(number) % 2 == 0:
        return f"convnext.encoder.stages.{int(number) // 2}.downsampling_layer.{block}.{rest}"
    inner = {"block.0": "dwconv", "block.2": "layernorm", "block.3": "pwconv1", "block.5": "pwconv2"}
    if rest == "layer_scale":
        return f"{stage}.layers.{block}.layer_scale_parameter"
    return f"{stage}.layers.{block}.{inner[rest[:7]]}{rest[7:]}"


def _resnet_name(name):
    if name.startswith("fc."):
        return name.replace("fc", "classifier.1")
    if matched := re.fullmatch(r"(conv|bn)1\.(.*)", name):
        return f"resnet.embedder.embedder.{_part(matched[1])}.{matched[2]}"
    stage, block, layer, rest = name.split(".", 3)
    where = f"resnet.encoder.stages.{int(stage[5:]) - 1}.layers.{block}"
    if layer == "downsample":
        number, leaf = rest.split(".")
        return f"{where}.shortcut.{_part({'0': 'conv', '1': 'bn'}[number])}.{leaf}"
    return f"{where}.layer.{int(layer[-1]) - 1}.{_part(layer[:-1])}.{rest}"


def _part(name):
    return {"conv": "convolution", "bn": "normalization"}[name]


@pytest.mark.parametrize("name", SHAPES)
def test_logits_are_those_of_transformers(name):
    weights = {key: torch.tensor(array) for key, array in weights_of(name).items()}
    network, renamed = reference(name)
    network = network.double().eval()
    state = {renamed(key): tensor for key, tensor in weights.items()}
    if name == "convnext":
        state = {key: t.reshape(-1) if "layer_scale" in key else t for key, t in state.items()}
    missing, unexpected = network.load_state_dict(state, strict=False)
    assert not unexpected
    assert all("num_batches_tracked" in key for key in missing)
    x = torch.tensor(np.random.default_rng(2).normal(size=(2, 3, 64, 64)))
    expected = network(x).logits
    torch.testing.assert_close(in_torch.CLASSIFIERS[name](x, weights), expected, rtol=1e-9, atol=1e-9)


def test_the_twins_agree_on_mean_distances_and_their_gradients():
    paths = [f"loss.{name}_path={name}.pth" for name in SHAPES]
    hparams = tiny("loss.perceptual_weight=1.", "loss.resnet_weight=0.25", "train.precision=float64", *paths)
    weights = {name: weights_of(name) for name in SHAPES}
    frozen = {f"{name}.{key}": array for name in SHAPES for key, array in weights[name].items()}
    x, made = pictures()
    leaf = torch.tensor(made, requires_grad=True)
    expected = torch_methods(hparams)._distance({k: torch.tensor(v) for k, v in frozen.items()})(
        torch.tensor(x), leaf
    )
    expected.sum().backward()

    def total(made):
        distances = jax_methods(hparams)._distance(frozen)(jnp.asarray(x), made)
        return distances.sum(), distances

    with jax.enable_x64(True):
        gradient, distances = jax.jit(jax.grad(total, has_aux=True))(jnp.asarray(made))
    np.testing.assert_allclose(distances, expected.detach(), rtol=1e-9)
    np.testing.assert_allclose(gradient, leaf.grad, rtol=1e-7, atol=1e-12)
    alone = {
        name: in_torch.logit_distance(
            network, *map(torch.tensor, (x, made)), {k: torch.tensor(v) for k, v in weights[name].items()}
        )
        for name, network in in_torch.CLASSIFIERS.items()
    }
    torch.testing.assert_close(expected.detach(), 0.8 * alone["convnext"] + 0.2 * alone["resnet"])


@pytest.mark.parametrize("name", SHAPES)
def test_grey_pictures_are_those_with_three_equal_channels(name):
    weights = {key: torch.tensor(array) for key, array in weights_of(name).items()}
    grey, other = torch.tensor(pictures(channels=1))
    network = in_torch.CLASSIFIERS[name]
    distance = in_torch.logit_distance(network, grey, other, weights)
    repeated = in_torch.logit_distance(
        network, grey.expand(-1, -1, -1, 3), other.expand(-1, -1, -1, 3), weights
    )
    torch.testing.assert_close(distance, repeated)


@pytest.mark.parametrize("name", SHAPES)
def test_the_full_networks_have_the_published_parameters(name):
    assert sum(map(np.prod, SHAPES[name]().values())) == FULL[name]


def test_files_are_read_by_their_names_and_weighted(tmp_path, monkeypatch):
    small = {"convnext": lambda: SHAPES["convnext"](SIZES)}
    monkeypatch.setattr("dioscuri.families.vqgan.perceptual.CLASSIFIERS", small)
    weights = {key: array.astype(np.float32) for key, array in weights_of("convnext").items()}
    save_file(weights, tmp_path / "convnext.safetensors")
    path = str(tmp_path / "convnext.safetensors")
    loss = Loss(perceptual_weight=1.1, convnext_path=path, convnext_weight=0.1)
    assert shares(loss) == {"convnext": 1}
    read = tensors_of("convnext", read_perceptual(loss))
    assert read.keys() == weights.keys()
    assert all((read[key] == weights[key]).all() for key in weights)
    del weights["classifier.2.bias"]
    save_file(weights, tmp_path / "convnext.safetensors")
    with pytest.raises(UserError, match=r"^\[loss\] convnext_path: .*classifier\.2\.bias"):
        read_perceptual(loss)


def test_shares_add_up_to_one():
    loss = Loss(lpips_path="a", convnext_path="b", lpips_weight=1.0, convnext_weight=0.1)
    assert shares(loss) == {"lpips": pytest.approx(1 / 1.1), "convnext": pytest.approx(0.1 / 1.1)}
    with pytest.raises(UserError, match="perceptual_weight needs the weights of a network"):
        Loss(perceptual_weight=1.0)
    with pytest.raises(UserError, match="resnet_weight is 0, and no other network is weighted"):
        Loss(perceptual_weight=1.0, resnet_path="a", resnet_weight=0)
