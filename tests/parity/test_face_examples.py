"""The examples of the public modules and of docs/python.md run as they stand, on tiny runs of those names."""

import re
from importlib import import_module
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
import torch
from PIL import Image

from tests.support import faces, sections, tiny, tiny_maskgit, tiny_vqgan

ROOT = Path(__file__).parents[2]
PAGE = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(), re.DOTALL)
NETWORK = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
"""A small token model."""


def dio(twin):
    return import_module(f"dioscuri.{twin}")


def code_of(docstring):
    """The indented lines of a docstring."""
    return "\n".join(line[4:] for line in docstring.split("\n") if line.startswith("    "))


def run(code, names):
    """Run an example with these names."""
    exec(code, names)  # noqa: S102 - a page of this repository


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A working directory with the runs of the examples."""
    root = tmp_path_factory.mktemp("work")
    vq = tiny_maskgit.write_tokenizer(root).rename(root / "logs-vqgan_digits")
    faces.write_run(root, "maskgit_digits", faces.with_tokenizer(tiny_maskgit.TINY, vq))
    faces.write_run(root, "digits", tiny.TINY)
    (root / "torch_impl").symlink_to(root)
    return root


def smaller(new):
    """`dio.new` with a small network where an example leaves its size open."""
    return lambda family, **given: new(family, **{**(NETWORK if family == "maskgit" else {}), **given})


@pytest.fixture
def names(folder, monkeypatch):
    """What the examples take for granted, and `dio.train` and `dio.describe`, which take long at the size of
    the examples, as a record of what they were asked for."""
    monkeypatch.chdir(folder)
    pictures, trained = faces.PICTURES[:2], []
    for twin in ("torch", "jax"):
        monkeypatch.setattr(dio(twin), "train", trained.append)
        monkeypatch.setattr(dio(twin), "describe", lambda cfg, **_: trained.append(cfg))
        monkeypatch.setattr(dio(twin), "new", smaller(dio(twin).new))
    loader = [(pictures, np.array([1, 0]))]
    given = {"pictures": pictures, "mask": faces.LEFT, "a": pictures[:1], "b": pictures[1:2]}
    return {**given, "loader": loader, "trained": trained, "torch": torch, "jax": jax, "optax": optax}


@pytest.mark.parametrize("twin", ["torch", "jax"])
def test_the_example_of_a_public_module(names, folder, twin):
    run(code_of(dio(twin).__doc__), names)
    assert names["out"].shape == (2, 8, 8, 1)
    assert names["film"].shape == (1, 8, 8, 8, 1)
    assert all((ROOT / cfg).is_file() for cfg in names["trained"])
    assert np.isfinite(np.asarray(names["metrics"]["loss"]))
    assert (folder / "mine" / "model.safetensors").is_file()


@pytest.mark.parametrize("block", [0, 1])
def test_the_page_in_torch(names, block):
    names["vq"] = dio("torch").load("logs-vqgan_digits")
    run(PAGE[block], names)
    assert names["out" if block == 0 else "loss"] is not None


def test_the_page_fine_tunes_on_a_folder(names, folder):
    (folder / "pictures").mkdir()
    for i, picture in enumerate(faces.PICTURES[:3]):
        Image.fromarray(picture[..., 0]).save(folder / "pictures" / f"{i}.png")
    run(PAGE[4], names)
    before = dio("torch").load("torch_impl/logs-digits").bound(names["pictures"], seed=0)
    assert dio("torch").load("tuned").bound(names["pictures"], seed=0).elbo.mean() > before.elbo.mean()


def test_the_page_in_jax(names, tmp_path):
    names["vq"] = dio("jax").load("logs-vqgan_digits")
    run(PAGE[2], names)
    cfg = sections.write("ema.cfg", tiny_vqgan.AVERAGED, tmp_path)
    model, optimizer = dio("jax").new(cfg), names["optimizer"]
    codes = model._network.weights()["quantize.embedding.weight"]
    gradient = jax.jit(jax.value_and_grad(model.loss, has_aux=True))
    names |= {"model": model, "state": model.state, "moments": optimizer.init(model.state)}
    run(PAGE[3], {**names, "gradient": gradient, "loader": [names["pictures"]]})
    assert (model._network.weights()["quantize.embedding.weight"] != codes).any()
