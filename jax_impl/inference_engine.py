"""The engine of inference: a trained network and nothing that only training needs."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx

from dioscuri.checkpoint.pretrained import without_discriminator
from dioscuri.contract import family_of
from dioscuri.engine import Array, Batch, Noise, State, check_averaged, weights_of
from jax_impl.devices import check_precision, open_devices, set_precision, use_compilation_cache
from jax_impl.families.methods import methods_of
from jax_impl.inference import Runner, tree_of
from jax_impl.layers.lora import trained_kind


class InferenceEngine:
    """See `dioscuri.engine.InferenceEngine`. Each parameter is a separate array: slices of one vector would
    be copied in every call."""

    name = "jax"

    def __init__(self, hparams: Any) -> None:
        self.hparams = family_of(hparams).network_options(hparams)
        precision = hparams.train.precision
        use_compilation_cache()
        set_precision(precision)
        run = hparams.run
        self.devices = open_devices(run.num_gpus, run.num_cpu_devices, run.timeout)
        check_precision(precision, self.devices.mesh.devices.flat[0])
        self.process_index, self.process_count = self.devices.process_index, self.devices.process_count
        self.device_count = self.devices.device_count
        self.text_device = "cpu"
        self.dtype = np.float64 if precision == "float64" else np.float32
        self.family = methods_of(self.hparams)
        self.runner = Runner(self.family, self.devices, self.dtype, self._merge)
        model = nnx.eval_shape(self.family.build)
        split: Any = nnx.split(model, trained_kind(model), ...)
        self.graph, self.params, self.rest = split
        self.averaged: bool | None = None
        self.frozen: dict[str, jax.Array] | None = None

    def state_from_numpy(self, state: State) -> None:
        """Load the group `model` or `ema` of a state, whichever there is."""
        self.averaged, arrays = weights_of(state)
        self.weights = tree_of(
            self.params,
            without_discriminator(arrays),
            self.family.parameter_shapes(),
            self.hparams.train.precision,
            self.devices.replicated,
        )

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
        """Run a method on the global batch, each device on its rows; repeated rows fill the batch."""
        check_averaged(ema, self.averaged)
        key, frozen = (self.hparams.run.seed, step), self._frozen(method)
        return self.runner.run(method, self.weights, batch, frozen, key=key, noise=noise, **arguments)

    def barrier(self) -> None:
        """Wait for all processes."""
        self.devices.barrier()

    def lost(self, error: Exception) -> bool:
        """Whether an error means that another process has ended or does not answer."""
        return self.devices.lost(error)

    def _frozen(self, method: str) -> Mapping[str, jax.Array]:
        """The frozen arrays if the method uses them, read when first needed."""
        if not self.family.uses_frozen(method):
            return {}
        if self.frozen is None:
            arrays = {
                name: np.asarray(array, self.runner.frozen_dtype(name))
                for name, array in self.family.frozen().items()
            }
            self.frozen = jax.device_put(arrays, self.devices.replicated)
        return self.frozen

    def _merge(self, params: Any) -> nnx.Module:
        model: nnx.Module = nnx.merge(self.graph, params, self.rest)
        return model
