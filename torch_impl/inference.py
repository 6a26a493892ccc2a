"""Runs a family's methods on a network, for the engine and for the models of the Python interface."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dioscuri.contract import family_of
from dioscuri.engine import Array, mode, padded_rows, split_arguments, step_numbers
from dioscuri.errors import UserError
from dioscuri.inputs import check_lengths
from dioscuri.plans.layout import check_shapes
from dioscuri.plans.lora import BASE, adapter_noise, adapters_of, without_adapters
from dioscuri.plans.noise import NoiseSpec
from torch_impl.devices import COMPUTE_DTYPES, Devices, exact_float32
from torch_impl.families.lora import build_network
from torch_impl.families.methods import methods_of
from torch_impl.layers.initial import blank
from torch_impl.layers.lora import set_masks
from torch_impl.noise import STREAMS, draw_noise

Arrays = Mapping[str, Array]


class Runner:
    """Runs methods: places rows on the device, draws noise, and fetches the results. Noise and floats have
    type `dtype`."""

    def __init__(self, methods: Any, devices: Devices, dtype: torch.dtype) -> None:
        self.methods, self.devices, self.dtype = methods, devices, dtype

    @torch.no_grad()
    def run(
        self,
        method: str,
        model: Any,
        batch: Arrays,
        frozen: Mapping[str, Tensor],
        *,
        key: tuple[int, int],
        noise: Arrays | None = None,
        **arguments: Any,
    ) -> dict[str, Array]:
        """Run a method on the global batch, each process on its rows; repeated rows fill the batch.

        Noise is drawn from the key (seed, step), or given as arrays with rows first.
        """
        function = mode(self.methods, method)
        hparams = self.methods.hparams
        given = family_of(hparams).arguments(hparams, method, arguments)
        options, numbers = split_arguments(given)
        n = check_lengths(batch)
        rows, share = padded_rows(n, self.devices.device_count), self.devices.share
        arrays = {name: self.devices.place(share(array[rows])) for name, array in batch.items()}
        if noise is None:
            drawn = self.noise(method, len(rows) // self.devices.process_count, key, **options)
        else:
            drawn = self.placed({name: share(np.asarray(array)[rows]) for name, array in noise.items()})
        results = function(model, arrays, drawn, frozen, **self._tensors(numbers), **options)
        return {name: self.devices.to_numpy(value)[:n] for name, value in results.items()}

    def noise(self, method: str, rows: int, key: tuple[int, int], **options: Any) -> dict[str, Any]:
        """The noise of a method for `rows` rows of this process."""
        return self.drawn(method, self.methods.noise_specs(method, rows, **options), key)

    def drawn(self, method: str, specs: Sequence[NoiseSpec], key: tuple[int, int]) -> dict[str, Any]:
        """Noise of these specifications for a method."""
        seed, step = key
        whole = (seed, STREAMS[method], step, self.devices.process_index)
        return draw_noise(specs, whole, self.devices.device, self.dtype)

    def placed(self, arrays: Arrays) -> dict[str, Tensor]:
        """Arrays as tensors on the device."""
        return {name: self.devices.place(array, self.dtype) for name, array in arrays.items()}

    def frozen(self) -> dict[str, Tensor]:
        """The family's frozen tensors on the device. Kernels have channels last, as convolutions here want
        them: otherwise they would be copied."""
        placed = {
            name: self.devices.place(array, self.frozen_dtype(name))
            for name, array in self.methods.frozen().items()
        }
        return {
            name: tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor
            for name, tensor in placed.items()
        }

    def frozen_dtype(self, name: str) -> torch.dtype:
        """Type of a frozen tensor: the weights of an adapted base are kept as the network computes with them,
        others as floats are."""
        is_base = name.startswith(BASE)
        return COMPUTE_DTYPES[self.methods.hparams.train.precision] if is_base else self.dtype

    def _tensors(self, numbers: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments that are the same for every row."""
        make = partial(torch.as_tensor, dtype=self.dtype, device=self.devices.device)
        return {
            name: [make(item) for item in value] if isinstance(value, list) else make(value)
            for name, value in numbers.items()
        }


class Network:
    """See `dioscuri.face.network.Network`."""

    name = "torch"

    def __init__(
        self, hparams: Any, weights: Arrays, device: Any = None, buffers: Mapping[str, Any] | None = None
    ) -> None:
        precision = hparams.train.precision
        self.hparams, self.methods = hparams, methods_of(without_adapters(hparams))
        self._device = open_device(device, precision)
        dtype = torch.float64 if precision == "float64" else torch.float32
        module = blank(partial(build_network, self.methods, adapters_of(hparams)))
        self.module: Any = module
        check_shapes(weights, self.shapes)
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                parameter.copy_(torch.from_numpy(np.array(weights[name])))
        self.module.to(self._device, COMPUTE_DTYPES[precision])
        self.runner = Runner(self.methods, Devices(self._device, 0, 1), dtype)
        self._frozen: dict[str, Tensor] | None = None
        first = self.methods.initial_buffers(hparams.run.seed) if buffers is None else buffers
        self.buffers = {
            name: torch.as_tensor(value, dtype=dtype, device=self._device) for name, value in first.items()
        }
        self.settled = True

    @property
    def device(self) -> torch.device:
        """The device of the weights; the user may have moved the module."""
        device: torch.device = next(iter(self.module.parameters())).device
        return device

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every parameter."""
        return {name: tuple(parameter.shape) for name, parameter in self.module.named_parameters()}

    @property
    def frozen(self) -> dict[str, Tensor]:
        """Tensors that are neither trained nor saved, read when first needed."""
        if self._frozen is None:
            self._frozen = self.runner.frozen()
        return self._frozen

    def machine(self) -> dict[str, Any]:
        """What, beside versions, decides how results are rounded."""
        device = self.device
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        return {"device": name, "threads": torch.get_num_threads()}

    def run(
        self,
        method: str,
        batch: Mapping[str, Any],
        *,
        seed: int = 0,
        step: int = 0,
        noise: Mapping[str, Any] | None = None,
        **arguments: Any,
    ) -> dict[str, Array]:
        """Run a method of the family without gradients."""
        self._follow()
        self._overwrite()
        self._mask_adapters({})
        frozen = self.frozen if self.methods.uses_frozen(method) else {}
        with exact_float32, in_evaluation(self.module):
            return self.runner.run(
                method, self.module, batch, frozen, key=(seed, step), noise=noise, **arguments
            )

    def caller(self) -> Callable[..., dict[str, Array]]:
        """`run` without noise; a call costs nothing that could be done once."""
        return partial(self.run, noise={})

    def noise_specs(self, method: str, rows: int, **options: Any) -> tuple[NoiseSpec, ...]:
        """The noise that a method takes."""
        specs = self.methods.noise_specs(method, rows, **options)
        return (*specs, *adapter_noise(self.hparams, self.methods.parameter_shapes(), method, rows))

    def loss(
        self,
        batch: Mapping[str, Any],
        *,
        scalars: Mapping[str, float],
        noise: Mapping[str, Any] | None = None,
        tokenizer: Any = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The family's training objective and metrics; PyTorch's default
        generator draws `noise` if it is None.

        Tensors that a step changes without a gradient, such as averages of a codebook, are updated.
        """
        self._follow()
        self._overwrite()
        rows = {name: torch.as_tensor(value).to(self.device) for name, value in batch.items()}
        if tokenizer is not None:
            rows = tokenizer.tokenised(rows)
        if noise is None:
            seed = int(torch.randint(2**62, ()))
            specs = self.noise_specs("train_step", len(next(iter(rows.values()))))
            drawn = self.runner.drawn("train_step", specs, (seed, 0))
        else:
            drawn = self.runner.placed(noise)
        numbers, switches = step_numbers(scalars, self.methods.switches, 0.0)
        values = {
            name: torch.tensor(value, dtype=self.runner.dtype, device=self.device)
            for name, value in numbers.items()
        }
        self._mask_adapters(drawn)
        loss, metrics, buffers = self.methods.loss(
            self.module, rows, drawn, values | switches, self.buffers, self.frozen
        )
        if not self.hparams.train.checkpoint_activations:  # which computes layers again
            self._mask_adapters({})
        self.buffers = {name: value.detach() for name, value in buffers.items()}
        self.settled = not buffers
        return loss, {name: value.detach() for name, value in metrics.items()}

    @torch.no_grad()
    def tokenised(self, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rows whose pictures are replaced by their tokens (B, L)."""
        if "image" not in rows:
            return dict(rows)
        self._follow()
        self._overwrite()
        others = {name: value for name, value in rows.items() if name != "image"}
        encode = mode(self.methods, "encode")
        with in_evaluation(self.module):
            tokens = encode(self.module, {"image": rows["image"]}, {}, self.frozen)["tokens"]
        return others | {"tokens": tokens.flatten(1)}

    @torch.no_grad()
    def _overwrite(self) -> None:
        """Set the parameters that follow from the buffers of the last loss."""
        if not self.settled:
            parameters = dict(self.module.named_parameters())
            for name, value in self.methods.overwritten(self.buffers, parameters).items():
                parameters[name].copy_(value)
            self.settled = True

    def weights(self) -> dict[str, Array]:
        """Parameters under canonical names, float32 or float64."""
        self._overwrite()
        return {name: _to_numpy(parameter) for name, parameter in self.module.named_parameters()}

    def _mask_adapters(self, noise: Mapping[str, Tensor]) -> None:
        if options := adapters_of(self.hparams):
            set_masks(self.module, noise, options.dropout)

    def _follow(self) -> None:
        """Move the other tensors to the module's device, in case the user has moved it."""
        if self.device != self.runner.devices.device:
            self.runner.devices = Devices(self.device, 0, 1)
            if self._frozen is not None:
                self._frozen = {name: tensor.to(self.device) for name, tensor in self._frozen.items()}
            self.buffers = {name: tensor.to(self.device) for name, tensor in self.buffers.items()}


@contextmanager
def in_evaluation(module: nn.Module) -> Iterator[None]:
    """Within the block, the module is in evaluation mode, as after `module.eval()`; then as it was."""
    training = [part for part in module.modules() if part.training]
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True


def open_device(device: Any, precision: str) -> torch.device:
    """A device by name, None for PyTorch's default; a `UserError` if it is missing or does not support the
    precision."""
    if device is None:
        return torch.get_default_device()
    try:
        chosen = torch.device(device)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"device {device!r} cannot be used: {reason}") from error
    unsupported = chosen.type == "mps" and precision == "float64"
    if chosen.type == "cuda" and precision == "bfloat16":
        unsupported = not torch.cuda.is_bf16_supported(including_emulation=False)
    if unsupported:
        raise UserError(f"device {device!r} does not compute in {precision}: choose another dtype")
    return chosen


def _to_numpy(parameter: nn.Parameter) -> Array:
    tensor = parameter.detach().cpu()
    wide = tensor if tensor.dtype == torch.float64 else tensor.float()
    return np.array(wide.numpy(), order="C")
