"""Parameters spread over the processes by PyTorch's FSDP2, `fully_shard` (Rajbhandari et al. 2020; Zhao et
al. 2023).

The processes hold one copy of the state or several, each spread over some of them. Between passes a process
holds a chunk of the rows (the first axis) of each parameter, as `torch.chunk` makes them, and the same rows
of master weights, average and moments. A pass gathers parameters unit by unit: each block of the network is a
unit, all else is another. The backward pass sums the gradient of a unit over the processes, each of which
gets its rows, while it computes the next.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from dioscuri.plans.layout import Layout, Slot, make_layout
from dioscuri.plans.mesh import AXES, MeshShape
from torch_impl.devices import Devices
from torch_impl.optim.flat import views


class Shares:
    """This process's rows of the parameters of a layout, and the layout of the vector of these rows. The mesh
    has copies of the parameters, if there are any, along its first axis."""

    def __init__(self, whole: Layout, devices: Devices, shape: MeshShape) -> None:
        from torch.distributed.device_mesh import init_device_mesh  # noqa: PLC0415 - slow, for shards alone

        self.devices, self.count = devices, shape.shard
        mesh = init_device_mesh(devices.device.type, (shape.data, shape.shard), mesh_dim_names=AXES)
        self.copy = mesh["shard"]
        self.mesh = mesh if shape.data > 1 else self.copy
        self.slots = {slot.name: slot for slot in whole.slots}
        shapes = {slot.name: self._shape(slot) for slot in whole.slots}
        decayed = {slot.name for slot in whole.slots if slot.start < whole.n_decayed}
        self.layout = make_layout(shapes, decayed.__contains__, lambda _, shape: tuple(range(len(shape))))

    def rows(self, name: str, array: Any) -> Any:
        """This process's rows of a parameter's tensor or array."""
        return array[self._rows(self.slots[name])]

    def whole(self, name: str, rows: Tensor) -> Tensor:
        """The parameter's tensor, gathered from the rows of all processes, each of which must call this."""
        from torch.distributed.tensor import DTensor, Shard  # noqa: PLC0415 - slow, for shards alone

        shape = torch.Size(self.slots[name].shape)
        stride = torch.empty(shape, device="meta").stride()
        spread = DTensor.from_local(rows, self.copy, [Shard(0)], run_check=False, shape=shape, stride=stride)
        return spread.full_tensor()

    def to_numpy(self, flat: Tensor, prefix: str, *, everywhere: bool) -> dict[str, np.ndarray]:
        """Parameters under `prefix` + canonical name, from the vectors of all processes, one after the other:
        on every process, or on the first alone."""
        arrays = {}
        for name, rows in views(flat, self.layout).items():
            tensor = self.whole(name, rows)
            if everywhere or self.devices.process_index == 0:
                arrays[prefix + name] = np.array(tensor.cpu().numpy(), order="C")
        return arrays

    def norm(self, vector: Tensor) -> Tensor:
        """Norm (0-d) of the vector of all processes that hold a copy."""
        square = torch.linalg.vector_norm(vector).to(torch.float64) ** 2
        dist.all_reduce(square, group=self.copy.get_group())
        return square.sqrt().to(vector.dtype)

    def _rows(self, slot: Slot) -> slice:
        n, index = -(-slot.shape[0] // self.count), self.copy.get_local_rank()
        return slice(min(index * n, slot.shape[0]), min((index + 1) * n, slot.shape[0]))

    def _shape(self, slot: Slot) -> tuple[int, ...]:
        rows = self._rows(slot)
        return (rows.stop - rows.start, *slot.shape[1:])


class Gathered(Mapping[str, Tensor]):
    """Parameters by name, gathered when asked for."""

    def __init__(self, shares: Shares, flat: Tensor) -> None:
        self.shares, self.rows = shares, views(flat, shares.layout)

    def __getitem__(self, name: str) -> Tensor:
        return self.shares.whole(name, self.rows[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)


class _Called(nn.Module):
    """The module that FSDP2 watches; its forward is any function of the model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, function: Callable[[Any], Any]) -> Any:
        return function(self.model)


class ShardedModel:
    """A model under FSDP2, called with functions of the model."""

    def __init__(
        self, model: nn.Module, blocks: Sequence[nn.Module], shares: Shares, precision: str, *, regather: bool
    ) -> None:
        # Two seconds to import, for shards alone.
        from torch.distributed.fsdp import (  # noqa: PLC0415
            FSDPModule,
            MixedPrecisionPolicy,
            fully_shard,
        )

        # It warns of blocks that return views, which an operation in place could spoil: there is none.
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view")
        self.model, self.shares, self.called = model, shares, _Called(model)
        dtype = torch.bfloat16 if precision == "bfloat16" else None
        policy = MixedPrecisionPolicy(
            param_dtype=dtype,
            reduce_dtype=None if dtype is None else torch.float32,
            cast_forward_inputs=False,
        )
        for module in (*blocks, self.called):
            fully_shard(module, mesh=shares.mesh, reshard_after_forward=regather, mp_policy=policy)
        self.units = [module for module in self.called.modules() if isinstance(module, FSDPModule)]
        parameters: dict[str, Any] = dict(model.named_parameters())
        self.parameters = [parameters[slot.name] for slot in shares.layout.slots]
        self.regather = regather

    def __call__(self, function: Callable[[Any], Any]) -> Any:
        """The result of a function of the model, which gathers parameters when they are used."""
        return self.called(function)

    @torch.no_grad()
    def write(self, flat: Tensor) -> None:
        """Set this process's rows of the parameters."""
        torch._foreach_copy_(
            [parameter.to_local() for parameter in self.parameters],
            list(views(flat, self.shares.layout).values()),
        )

    def gradients(self) -> list[Tensor]:
        """This process's rows of the gradients of all backward passes since the last call."""
        rows = [
            torch.zeros_like(parameter.to_local()) if parameter.grad is None else parameter.grad.to_local()
            for parameter in self.parameters
        ]
        self.called.zero_grad()
        return rows

    @property
    def nbytes(self) -> int:
        """Bytes of this process's rows of the parameters."""
        return sum(parameter.to_local().nbytes for parameter in self.parameters)

    @contextmanager
    def gathered(self) -> Iterator[Any]:
        """Within the block, the model with all its parameters, for methods that no hook of FSDP2 sees."""
        for unit in self.units:
            unit.unshard()
        try:
            yield self.model
        finally:
            for unit in self.units:
                unit.reshard()


def blocks_of(module: nn.Module) -> list[nn.Module]:
    """The blocks of a network: elements of its outermost lists. Of a block that computes something ahead of
    its forward pass, by a method `prepare`, these are its layers, which FSDP2 sees in both."""
    blocks: list[nn.Module] = []
    for child in module.children():
        if not isinstance(child, nn.ModuleList):
            blocks += blocks_of(child)
            continue
        for element in child:
            if type(element).forward is nn.Module.forward:
                blocks += blocks_of(element)
            elif any(hasattr(inner, "prepare") for inner in element.modules()):
                blocks += [inner for inner in element.modules() if _is_layer(inner)]
            elif next(element.parameters(), None) is not None:
                blocks.append(element)
    return blocks


def _is_layer(module: nn.Module) -> bool:
    """Whether it is a layer with a matrix or a kernel."""
    return not list(module.children()) and any(p.ndim > 1 for p in module.parameters())
