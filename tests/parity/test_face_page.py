"""The two public modules have the same names, arguments and words, all of them documented."""

import inspect
from importlib import import_module

import pytest

import dioscuri
from dioscuri import jax as in_jax
from dioscuri import torch as in_torch
from dioscuri.face.model import METHODS, Model, face_of
from dioscuri.registry import family_names
from tests.support import tiny_maskgit
from tests.support.memory import watched

PLAIN = ("cfg", "seed", "device", "dtype", "options", "tokenizer")
"""Arguments that some calls need not explain."""
TWINS = {"torch": in_torch, "jax": in_jax}


def test_both_twins_have_the_same_names_arguments_and_words():
    assert in_torch.__all__ == in_jax.__all__
    for name in in_torch.__all__:
        first, second = getattr(in_torch, name), getattr(in_jax, name)
        if inspect.isclass(first):
            assert first is second
            continue
        assert inspect.signature(first) == inspect.signature(second)
        assert inspect.getdoc(first).replace("PyTorch", "JAX") == inspect.getdoc(second)


@pytest.mark.parametrize("twin", TWINS)
def test_every_argument_is_explained(twin):
    for name in ("load", "new", "train"):
        function = getattr(TWINS[twin], name)
        words = [word for word in inspect.signature(function).parameters if word not in PLAIN]
        lacking = [word for word in words if f"`{word}" not in function.__doc__]
        assert not lacking, f"{name}: {lacking}"
    assert f"from dioscuri import {twin} as dio" in TWINS[twin].__doc__
    assert all(
        method in TWINS[twin].__doc__ for method in ("encode", "decode", "generate", "inpaint", "loss")
    )


@pytest.mark.parametrize("family", family_names())
def test_every_method_of_a_family_is_documented(family):
    face = face_of(family)
    assert set(face.does) <= set(METHODS)
    for name in face.does:
        assert any(name in vars(base) for base in face.__mro__[: face.__mro__.index(Model)])
        assert inspect.getdoc(getattr(face, name))


def test_the_package_says_what_it_exports():
    assert set(dioscuri.__all__) == {"UserError", "__version__"}
    assert issubclass(dioscuri.UserError, ValueError)
    assert import_module("importlib.metadata").version("dioscuri") == dioscuri.__version__


def test_a_loaded_tokenizer_holds_its_weights_and_nothing_else(tmp_path):
    """It holds no gradients, averages or moments, and not the run's discriminator."""
    run = tiny_maskgit.write_tokenizer(tmp_path)
    with watched("torch") as held:
        model = in_torch.load(run)
    assert held.nbytes == 4 * model.num_parameters
    assert not any("discriminator" in name for name, _ in model.module.named_parameters())
