"""Networks from options and weights, and saved folders that either twin opens."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import nn

from dioscuri.checkpoint.pretrained import is_folder, network_options, read_folder, write_folder
from dioscuri.errors import UserError, kind_of
from dioscuri.files import read_path
from dioscuri.hub import local_folder
from dioscuri.plans.layout import check_shapes
from torch_impl.families.methods import methods_of
from torch_impl.layers.initial import blank

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
                f"{folder} holds no config.json that save_pretrained wrote: dioscuri.torch.load opens other "
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

    A `UserError` names a tensor that is missing or has the wrong shape.
    """
    hparams = network_options(hparams)
    model: Any = blank(methods_of(hparams).build)
    check_shapes(weights, {name: tuple(p.shape) for name, p in model.named_parameters()})
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.tensor(weights[name]))
    model.hparams = hparams
    return model


def weights_of(model: nn.Module | Pretrained) -> dict[str, np.ndarray]:
    """A network's weights under canonical names, float32."""
    assert isinstance(model, nn.Module)
    return {
        name: np.ascontiguousarray(parameter.detach().float().cpu().numpy())
        for name, parameter in model.named_parameters()
    }
