"""Networks of options and weights, and the folders that either twin opens."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import jax.numpy as jnp
import numpy as np
from flax import nnx

from dioscuri.checkpoint.pretrained import is_folder, network_options, read_folder, write_folder
from dioscuri.errors import UserError
from dioscuri.hub import local_folder
from dioscuri.plans.layout import Layout, pack, unpack
from jax_impl.families.methods import methods_of
from jax_impl.layers.dropout import seed_dropout
from jax_impl.optim.flat import Tree, flat_layout, join, split

Arrays = Mapping[str, np.ndarray]


class Pretrained:
    """What every network can do: be written to a folder and read from one."""

    hparams: Any = None
    """Options of the network; those that `build_model`, `model_of` and `from_pretrained` make have them."""

    def save_pretrained(self, folder: Path | str) -> None:
        """Write `config.json` and `model.safetensors`."""
        if self.hparams is None:
            raise UserError("a model without options cannot be saved: make it with build_model")
        write_folder(Path(folder), self.hparams, weights_of(self))

    @classmethod
    def from_pretrained(
        cls, where: Path | str, overrides: Sequence[str] = (), *, revision: str = "main"
    ) -> Self:
        """The network of a folder that `save_pretrained` wrote, here or on the hub as `owner/model[/folder]`.

        Words `section.option=value` change options. A `UserError` says what is missing, what does not fit,
        and if the network is of another class.
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
            raise UserError(f"{where} holds a {type(model).__name__}, not a {cls.__name__}")
        return model


def build_model(hparams: Any, seed: int = 0) -> Any:
    """The network of a run's options in evaluation mode, its first values drawn from `seed` by the family's
    table."""
    hparams = network_options(hparams)
    return model_of(hparams, methods_of(hparams).initial_parameters(seed))


def model_of(hparams: Any, weights: Arrays) -> Any:
    """The network of a run's options in evaluation mode, with weights under canonical names.

    A `UserError` names what is missing or has another shape. Dropout has random streams, of seed 0, for when
    `model.train()` switches it on.
    """
    hparams = network_options(hparams)
    parts: Any = nnx.split(nnx.eval_shape(methods_of(hparams).build), nnx.Param, ...)
    graph, params, rest = parts
    layout, tree = _layout(hparams, params)
    model: Any = nnx.merge(graph, split(jnp.asarray(pack(weights, layout, np.float32)), layout, tree), rest)
    model.hparams = hparams
    seed_dropout(model, 0)
    return model


def weights_of(model: Any) -> dict[str, np.ndarray]:
    """A network's weights under canonical names, float32."""
    params = nnx.state(model, nnx.Param)
    layout, tree = _layout(model.hparams, params)
    return unpack(np.asarray(join(params, layout, tree), np.float32), layout)


def _layout(hparams: Any, params: nnx.State) -> tuple[Layout, Tree]:
    return flat_layout(params, methods_of(hparams).parameter_shapes(), lambda _: True)
