"""The engine of inference: a trained network and nothing that only training needs."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dioscuri.checkpoint.pretrained import without_discriminator
from dioscuri.contract import family_of
from dioscuri.engine import Array, Batch, Noise, State, check_averaged, weights_of
from dioscuri.plans.layout import pack
from torch_impl.devices import COMPUTE_DTYPES, check_precision, open_devices, set_precision
from torch_impl.families.methods import methods_of
from torch_impl.inference import Runner
from torch_impl.layers.initial import blank
from torch_impl.optim.flat import bind, flat_layout


class InferenceEngine:
    """See `dioscuri.engine.InferenceEngine`. The parameters are views of one vector, as in training."""

    name = "torch"

    def __init__(self, hparams: Any) -> None:
        self.hparams = family_of(hparams).network_options(hparams)
        precision = hparams.train.precision
        set_precision(precision)
        self.devices = open_devices(hparams.run.num_gpus, hparams.run.timeout)
        check_precision(precision, self.devices.device)
        self.process_index, self.process_count = self.devices.process_index, self.devices.process_count
        self.device_count = self.devices.device_count
        self.text_device = str(self.devices.device)
        self.dtype = torch.float64 if precision == "float64" else torch.float32
        self.family = methods_of(self.hparams)
        self.runner = Runner(self.family, self.devices, self.dtype)
        self.model = blank(self.family.build)
        self.layout = flat_layout(self.model, self.family.parameter_shapes(), self.family.decayed)
        if hparams.train.compile:
            self.family.compile(self.model)
        self.averaged: bool | None = None
        self.frozen: dict[str, Tensor] | None = None

    def state_from_numpy(self, state: State) -> None:
        """Load the group `model` or `ema` of a state, whichever there is."""
        self.averaged, arrays = weights_of(state)
        numpy_dtype = np.float64 if self.dtype == torch.float64 else np.float32
        vector = torch.from_numpy(pack(without_discriminator(arrays), self.layout, numpy_dtype))
        weights = vector.to(self.devices.device, COMPUTE_DTYPES[self.hparams.train.precision])
        bind(self.model, weights, self.layout)
        self.model.to(self.devices.device).requires_grad_(False)

    def run(
        self,
        method: str,
        batch: Batch,
        *,
        ema: bool,
        step: int,
        noise: Noise | None = None,
        **arguments: Any,
    ) -> dict[str, Array]:
        """Run a method on the global batch, each process on its rows; repeated rows fill the batch."""
        check_averaged(ema, self.averaged)
        key, frozen = (self.hparams.run.seed, step), self._frozen(method)
        return self.runner.run(method, self.model, batch, frozen, key=key, noise=noise, **arguments)

    def barrier(self) -> None:
        """Wait for all processes."""
        self.devices.barrier()

    def lost(self, error: Exception) -> bool:
        """Whether an error means that another process has ended or does not answer."""
        return self.devices.lost(error)

    def _frozen(self, method: str) -> Mapping[str, Tensor]:
        """The frozen tensors if the method uses them, read when first needed."""
        if not self.family.uses_frozen(method):
            return {}
        if self.frozen is None:
            self.frozen = self.runner.frozen()
        return self.frozen
