"""Networks from options and weights, and saved folders that either twin opens."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dioscuri.checkpoint.pretrained import is_folder, network_options, read_folder, write_folder
from dioscuri.errors import UserError, kind_of
from dioscuri.files import read_path
from dioscuri.hub import local_folder
from dioscuri.plans.layout import Layout, pack, unpack
from jax_impl.families.methods import methods_of
from jax_impl.layers.dropout import seed_dropout
from jax_impl.optim.flat import Tree, flat_layout, join, split

Arrays = Mapping[str, np.ndarray]


class Pretrained:
    """Saves a network to a folder and loads it again; a base class of all networks."""

    hparams: Any = None
    """Options of the network, set by `build_model`, `model_of` and `from_pretrained`."""

    def save_pretrained(self, folder: Path | str) -> None:
        """Write `config.json` and `model.safetensors`."""
        if self.hparams is None:
            raise UserError("a model without options cannot be saved: make it with build_model")
        write_folder(read_path(folder, "save_pretrained takes a folder"), self.hparams, weights_of(self))

    @classmethod
    def from_pretrained(
        cls, where: Path | str, overrides: Sequence[str] = (), *, revision: str = "main"
    ) -> Self:
        """Load the network that `save_pretrained` wrote, from a folder or a hub model `owner/model[/folder]`.

        `overrides` are words `section.option=value`. Raises a `UserError` if something is missing or does
        not fit, or if the network is of another class.
        """
        folder = local_folder(where, revision)
        if not is_folder(folder):
            raise UserError(
                f"{folder} holds no config.json that save_pretrained wrote: dioscuri.jax.load opens other "
                "published folders"
            )
        hparams, weights = read_folder(folder, overrides)
        try:
            model = model_of(hparams, weights)
        except UserError as error:
            raise UserError(f"{where}: {error}") from error
        if not isinstance(model, cls):
            raise UserError(f"{where} holds {kind_of(model)}, not a {cls.__name__}")
        return model


def build_model(hparams: Any, seed: int = 0) -> Any:
    """The network of a run's options, in evaluation mode, with initial values of the family drawn from
    `seed`."""
    hparams = network_options(hparams)
    return model_of(hparams, methods_of(hparams).initial_parameters(seed))


def model_of(hparams: Any, weights: Arrays) -> Any:
    """The network of a run's options, in evaluation mode, with weights given under canonical names.

    A `UserError` names a tensor that is missing or has the wrong shape. Dropout, which `model.train()` turns
    on, has random streams of seed 0.
    """
    hparams = network_options(hparams)
    parts: Any = nnx.split(nnx.eval_shape(methods_of(hparams).build), nnx.Param, ...)
    graph, params, rest = parts
    layout, tree = _layout(hparams, params)
    values = split(pack(weights, layout, np.float32), layout, tree)
    model: Any = nnx.merge(graph, jax.tree.map(jnp.array, values), rest)
    model.hparams = hparams
    seed_dropout(model, 0)
    return model


def weights_of(model: Any) -> dict[str, np.ndarray]:
    """A network's weights under canonical names, float32."""
    params = nnx.state(model, nnx.Param)
    layout, tree = _layout(model.hparams, params)
    return unpack(join(jax.tree.map(_float32, params), layout, tree), layout)


def _float32(array: Any) -> np.ndarray:
    return np.asarray(array, np.float32)


def _layout(hparams: Any, params: nnx.State) -> tuple[Layout, Tree]:
    return flat_layout(params, methods_of(hparams).parameter_shapes(), lambda _: True)
