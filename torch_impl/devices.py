"""Devices and processes of a run: choosing them, placing arrays on them, and gathering results."""

import atexit
import os
import re
from dataclasses import dataclass
from datetime import timedelta
from threading import Lock
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from dioscuri.errors import UserError
from dioscuri.job import await_coordinator, job_of, not_joined
from dioscuri.plans.footprint import resident_bytes

_LOST = r"gloo|[Cc]onnection (closed|reset|refused)|[Tt]imed out|timeout|Broken pipe"

COMPUTE_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}
"""`train.precision` -> dtype of the network."""


@dataclass(frozen=True)
class Devices:
    """This process's device and its rank; there is one process per device."""

    device: torch.device
    process_index: int
    process_count: int

    @property
    def device_count(self) -> int:
        """Number of devices of all processes."""
        return self.process_count

    def place(self, array: np.ndarray, dtype: torch.dtype | None = None) -> Tensor:
        """This process's rows, as a tensor on its device."""
        return torch.as_tensor(np.ascontiguousarray(array)).to(self.device, dtype, non_blocking=True)

    def share(self, array: np.ndarray) -> np.ndarray:
        """This process's rows of a global array, whose length is a multiple of the number of processes."""
        return np.array_split(array, self.process_count)[self.process_index]

    def to_numpy(self, tensor: Tensor) -> np.ndarray:
        """The rows of all processes, on the host."""
        if self.process_count > 1:
            dtype, tensor = tensor.dtype, tensor.contiguous()
            # No backend gathers 16-bit integers.
            tensor = tensor.view(torch.uint8) if dtype == torch.uint16 else tensor
            gathered = [torch.empty_like(tensor) for _ in range(self.process_count)]
            dist.all_gather(gathered, tensor)
            tensor = torch.cat(gathered).view(dtype)
        return tensor.cpu().numpy()

    def mean(self, tensor: Tensor) -> Tensor:
        """Average a tensor over the processes, in place: gloo has only sums."""
        if self.process_count > 1:
            dist.all_reduce(tensor)
            tensor /= self.process_count
        return tensor

    def barrier(self) -> None:
        """Wait for all processes."""
        self.mean(torch.zeros((), device=self.device)).item()

    def peak_bytes(self) -> int:
        """The most memory used so far: on the GPU, or by this process."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return resident_bytes(at_most=True)

    def lost(self, error: Exception) -> bool:
        """Whether an error means that another process has ended or does not answer."""
        # gloo raises a plain RuntimeError.
        return self.process_count > 1 and (
            isinstance(error, dist.DistError)
            or (isinstance(error, RuntimeError) and re.search(_LOST, str(error)) is not None)
        )


def open_devices(num_gpus: int, timeout: int = 600) -> Devices:
    """Choose this process's device and join torchrun's process group, if there is one.

    Raises a `UserError` if not all processes meet within `timeout` seconds.
    """
    job = job_of("torch")
    rank, world = job.index, job.count
    local_rank = int(os.environ.get("LOCAL_RANK", str(rank))) if world > 1 else 0
    if num_gpus:
        _check_gpus(num_gpus, world)
        torch.cuda.set_device(local_rank)
    device = torch.device("cuda", local_rank) if num_gpus else torch.device("cpu")
    if world > 1 and not dist.is_initialized():
        _join_processes("nccl" if num_gpus else "gloo", timeout)
    return Devices(device, rank, world)


def _join_processes(backend: str, timeout: int) -> None:
    job = job_of("torch")
    where = ":".join(os.environ.get(name, "") for name in ("MASTER_ADDR", "MASTER_PORT"))
    if job.index:
        await_coordinator(where, job.count, timeout)
    try:
        dist.init_process_group(backend, timeout=timedelta(seconds=timeout))
    except (RuntimeError, ValueError) as error:
        raise UserError(not_joined(where, job.count, timeout)) from error
    # Gloo's threads that outlive the interpreter now and then abort the process at its end.
    atexit.register(_leave_processes)


def _leave_processes() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def set_precision(precision: str) -> None:
    """Use full float32 on GPUs (no TF32), and let cuDNN benchmark its algorithms, since all shapes are
    static."""
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    # The older switch for convolutions: torch.export fails if only the newer one is set (torch 2.13).
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = precision != "float64"


class ExactFloat32:
    """Within the block, use full float32 on GPUs (no TF32). PyTorch's switches are those of the process: the
    last of several threads inside sets them back."""

    def __init__(self) -> None:
        self._lock, self._inside, self._before = Lock(), 0, ("", "")

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._before = self._set(("ieee", "ieee"))
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._set(self._before)

    @staticmethod
    def _set(precisions: tuple[str, str]) -> tuple[str, str]:
        """Set the switches; returns what they were."""
        matmul: Any = torch.backends.cuda.matmul
        conv: Any = torch.backends.cudnn.conv  # type: ignore[attr-defined] # stubs
        if not torch.cuda.is_available():
            return precisions
        before = matmul.fp32_precision, conv.fp32_precision
        matmul.fp32_precision, conv.fp32_precision = precisions
        return before


exact_float32 = ExactFloat32()


def check_precision(precision: str, device: torch.device) -> None:
    """Raise a `UserError` if a card lacks bfloat16, which PyTorch would emulate slowly."""
    if precision != "bfloat16" or device.type != "cuda":
        return
    if not torch.cuda.is_bf16_supported(including_emulation=False):
        raise UserError(
            f"[train] precision is bfloat16, but {torch.cuda.get_device_name(device)} does not compute in "
            "it: set train.precision=float32"
        )


def count_processes(num_gpus: int) -> int:
    """One process per GPU; a `UserError` if this machine has fewer GPUs."""
    if not torch.cuda.is_available():
        raise UserError(
            f"[run] num_gpus is {num_gpus} but PyTorch finds no GPU here: set run.num_gpus=0 for the CPU"
        )
    local = torch.cuda.device_count()
    if num_gpus > local:
        raise UserError(
            f"[run] num_gpus is {num_gpus} but there are {local} GPUs here: set run.num_gpus={local}"
        )
    return num_gpus


def _check_gpus(num_gpus: int, world: int) -> None:
    count_processes(num_gpus if world == 1 else int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    if num_gpus != world:
        raise UserError(
            f"[run] num_gpus is {num_gpus} but {world} process{'es run' if world > 1 else ' runs'}: "
            f"start it with torchrun --nproc-per-node {num_gpus}"
        )


def of_first_process(x: Tensor) -> Tensor:
    """The first process's tensor times the number of processes, elsewhere zeros, so that the mean over the
    processes is that tensor."""
    if not dist.is_initialized():
        return x
    return x * dist.get_world_size() if dist.get_rank() == 0 else torch.zeros_like(x)
