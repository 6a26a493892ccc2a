"""Models in folders that either twin opens, and of the hub."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dioscuri.checkpoint.pretrained import network_options, write_folder
from dioscuri.errors import UserError
from dioscuri.importers.open_model import open_published
from dioscuri.plans.layout import Layout, pack, unpack
from jax_impl.families.methods import methods_of
from jax_impl.optim.flat import Tree, flat_layout, join, split


class Pretrained:
    """What every model can: be written to a folder and be read from one."""

    hparams: Any = None
    """Options of the model; those that `build_model` and `from_pretrained` make have them."""

    def save_pretrained(self, folder: Path | str) -> None:
        """Write `config.json` and `model.safetensors`."""
        if self.hparams is None:
            raise UserError("a model without options cannot be saved: make it with build_model")
        write_folder(Path(folder), self.hparams, _weights(self))

    @classmethod
    def from_pretrained(
        cls, where: Path | str, overrides: Sequence[str] = (), *, revision: str = "main"
    ) -> Self:
        """The model of a folder, or of the hub as `owner/model[/folder]`.

        Words `section.option=value` change options, such as the `data.grid` of an open-muse U-ViT. A
        `UserError` says what is missing, what does not fit, and if the model is of another class.
        """
        opened = open_published(where, overrides, revision=revision)
        model = build_model(opened.hparams)
        if not isinstance(model, cls):
            raise UserError(f"{where} holds a {type(model).__name__}, not a {cls.__name__}")
        try:
            _set_weights(model, opened.weights)
        except UserError as error:
            raise UserError(f"{where}: {error}") from error
        return model


def build_model(hparams: Any) -> Any:
    """The model of a run's options; its parameters are not set."""
    hparams = network_options(hparams)
    model = nnx.eval_shape(methods_of(hparams).build)
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), params)
    model = nnx.merge(graph, params, rest)
    model.hparams = hparams
    return model


def _layout(model: Any) -> tuple[Layout, Tree]:
    shapes = methods_of(model.hparams).parameter_shapes()
    return flat_layout(nnx.state(model, nnx.Param), shapes, lambda _: True)


def _weights(model: Any) -> dict[str, np.ndarray]:
    layout, tree = _layout(model)
    return unpack(np.asarray(join(nnx.state(model, nnx.Param), layout, tree), np.float32), layout)


def _set_weights(model: nnx.Module, weights: dict[str, np.ndarray]) -> None:
    layout, tree = _layout(model)
    nnx.update(model, split(jnp.asarray(pack(weights, layout, np.float32)), layout, tree))
