"""Devices and processes of a run: choosing them, placing arrays on them, and gathering results."""

import atexit
import os
import re
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from threading import Thread

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax._src.distributed import global_state
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dioscuri.environment import give_back_freed_memory, keep_freed_memory
from dioscuri.errors import UserError
from dioscuri.job import await_coordinator, job_of, not_joined
from dioscuri.places import cache_folder
from dioscuri.plans.footprint import resident_bytes
from dioscuri.plans.mesh import AXES, MeshShape

COMPUTE_DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float64": jnp.float64}
"""`train.precision` -> dtype of the network."""

_LOST = r"[Gg]loo|[Cc]onnection|DEADLINE_EXCEEDED|UNAVAILABLE|ABORTED|heartbeat|coordination service"

_CACHE_BYTES = 2 << 30
"""Size limit of the persistent compilation cache; the least recently used entries are removed first."""

_LEAST_SECONDS = 0.1
"""Programs that compile faster are not cached. JAX's default, a second, leaves out a run's noise."""

_COMPILED = "/jax/core/compile/backend_compile_duration"
"""What JAX tells after it has compiled a program, or read it from the cache."""

_SECONDS_TO_LEAVE = 10
"""How long the coordinator outlives its run where another process was killed, or does not end."""

_AMPERE = 8
"""Compute capability of the first NVIDIA cards with bfloat16; other makers number their cards differently."""


@dataclass(frozen=True)
class Devices:
    """A mesh over the devices of all processes, and this process's index. The rows of a batch are spread over
    all of its axes, those of the state over the last."""

    mesh: Mesh
    process_index: int
    process_count: int

    @property
    def device_count(self) -> int:
        """Number of devices of all processes."""
        return self.mesh.size

    @property
    def compiler_options(self) -> dict[str, bool | int] | None:
        """On the CPU, options with which the compiler needs a third of its memory and time for equally fast
        steps (jax 0.10.2)."""
        on_cpu = self.mesh.devices.flat[0].platform == "cpu"
        return {"xla_cpu_use_fusion_emitters": False, "xla_backend_optimization_level": 1} if on_cpu else None

    @property
    def sharded(self) -> NamedSharding:
        """Rows of a batch, over all devices."""
        return NamedSharding(self.mesh, PartitionSpec(self.mesh.axis_names))

    @property
    def shared(self) -> NamedSharding:
        """Rows of the state's vectors, over the devices that hold one copy."""
        return NamedSharding(self.mesh, PartitionSpec(self.mesh.axis_names[-1]))

    @property
    def replicated(self) -> NamedSharding:
        """The same on every device."""
        return NamedSharding(self.mesh, PartitionSpec())

    def arranged(self, shape: MeshShape) -> "Devices":
        """The same devices in a mesh of this shape."""
        devices = self.mesh.devices.reshape(shape.data, shape.shard)
        return replace(self, mesh=Mesh(devices, AXES))

    def place(self, array: np.ndarray, dtype: jnp.dtype | None = None) -> Array:
        """The global array, sharded over the devices, from this process's rows."""
        rows = np.asarray(array, dtype)
        if self.process_count == 1:
            placed: Array = jax.device_put(rows, self.sharded)
        else:
            placed = jax.make_array_from_process_local_data(self.sharded, rows)
        return placed

    def share(self, array: np.ndarray) -> np.ndarray:
        """This process's rows of a global array, whose length is a multiple of the number of processes."""
        return np.array_split(array, self.process_count)[self.process_index]

    def to_numpy(self, array: Array) -> np.ndarray:
        """The rows of all processes, on the host."""
        if self.process_count > 1 and not array.is_fully_replicated:
            array = multihost_utils.process_allgather(array, tiled=True)
        return np.asarray(array)

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.process_count > 1:
            multihost_utils.sync_global_devices("barrier")

    def held_bytes(self, array: Array) -> int:
        """Bytes of an array on this process's first device."""
        return int(array.addressable_shards[0].data.nbytes)

    def peak_bytes(self) -> int:
        """The most memory used so far: on this process's first accelerator, or by this process."""
        statistics = self.mesh.local_devices[0].memory_stats() or {}
        return int(statistics.get("peak_bytes_in_use", 0)) or resident_bytes(at_most=True)

    def lost(self, error: Exception) -> bool:
        """Whether an error means that another process has ended or does not answer."""
        failed = isinstance(error, jax.errors.JaxRuntimeError | ValueError)
        return self.process_count > 1 and failed and re.search(_LOST, str(error)) is not None


def open_devices(num_gpus: int, num_cpu_devices: int = 0, timeout: int = 600) -> Devices:
    """Choose the devices and join the other processes, if the environment names any.

    Raises a `UserError` if not all processes meet within `timeout` seconds.
    """
    if not num_gpus:
        keep_freed_memory()
        _give_back_after_compiling()
        if num_cpu_devices < 2 and job_of("jax").count < 2:
            # Otherwise the next step takes its memory before the last one has given its own back.
            jax.config.update("jax_cpu_enable_async_dispatch", False)
        jax.config.update("jax_platforms", "cpu")
        if num_cpu_devices:
            with suppress(
                RuntimeError
            ):  # JAX is initialised already, perhaps with that number: checked below
                jax.config.update("jax_num_cpu_devices", num_cpu_devices)
    _join_processes(timeout)
    devices = jax.devices() if num_gpus else jax.devices("cpu")
    if num_gpus:
        _check_gpus(num_gpus, devices)
        devices = devices[:num_gpus]
    elif num_cpu_devices:
        _check_cpu_devices(num_cpu_devices)
        devices = devices[: num_cpu_devices * jax.process_count()]
    return Devices(Mesh(np.array(devices), ("data",)), jax.process_index(), jax.process_count())


def set_precision(precision: str) -> None:
    """Use full float32 on accelerators (no TF32); float64 needs the global switch."""
    jax.config.update("jax_default_matmul_precision", "highest" if precision == "float32" else None)
    if precision == "float64":
        jax.config.update("jax_enable_x64", True)


def check_precision(precision: str, device: jax.Device) -> None:
    """Raise a `UserError` if a card lacks bfloat16, which XLA would emulate slowly."""
    number = re.fullmatch(r"(\d+)\.\d+", getattr(device, "compute_capability", ""))
    if precision == "bfloat16" and number and int(number[1]) < _AMPERE:
        raise UserError(
            f"[train] precision is bfloat16, but {device.device_kind} does not compute in it: "
            "set train.precision=float32"
        )


def use_compilation_cache() -> None:
    """Cache compiled programs in JAX_COMPILATION_CACHE_DIR, or in the project's cache folder.

    The size limit needs the package filelock; without it, only a folder named by the user is used.
    """
    if os.environ.get("JAX_COMPILATION_CACHE_DIR") or find_spec("filelock") is None:
        return
    jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "jax"))
    jax.config.update("jax_compilation_cache_max_size", _CACHE_BYTES)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", _LEAST_SECONDS)


@cache  # once in a process
def _give_back_after_compiling() -> None:
    """Return to the system what making the engine, tracing and compiling have freed, before a step runs."""

    def on_event(event: str, duration_secs: float, **_: str | int) -> None:
        if event == _COMPILED and duration_secs >= _LEAST_SECONDS:
            give_back_freed_memory()

    jax.monitoring.register_event_duration_secs_listener(on_event)


def _join_processes(timeout: int) -> None:
    job, coordinator = job_of("jax"), os.environ.get("JAX_COORDINATOR_ADDRESS")
    if job.count < 2 or jax.distributed.is_initialized():
        return
    if coordinator and job.index:
        await_coordinator(coordinator, job.count, timeout)
    # Otherwise JAX kills the process, with many lines, when another one is lost.
    jax.config.update("jax_enable_recoverability", True)
    try:
        jax.distributed.initialize(
            coordinator_address=coordinator,
            num_processes=_number("JAX_NUM_PROCESSES"),
            process_id=_number("JAX_PROCESS_ID"),
            initialization_timeout=timeout,
        )
    except (RuntimeError, ValueError) as error:
        raise UserError(not_joined(coordinator or "of the cluster", job.count, timeout)) from error
    if not job.index:
        atexit.register(_leave_last)


def _leave_last() -> None:
    """Wait until the other processes have left: JAX kills a process that still needs the coordinator, which
    runs in this one. JAX has no public function that says when they have."""
    client = global_state.client
    if client is None:
        return

    def wait() -> None:
        with suppress(jax.errors.JaxRuntimeError):  # cut short by the end of this process
            client.get_live_nodes(list(range(jax.process_count())))

    others = Thread(target=wait, daemon=True)
    others.start()
    others.join(_SECONDS_TO_LEAVE)


def _number(name: str) -> int | None:
    return int(os.environ[name]) if name in os.environ else None


def _check_cpu_devices(n: int) -> None:
    local = jax.local_device_count()
    if n > local or (jax.process_count() > 1 and n != local):
        raise UserError(
            f"[run] num_cpu_devices is {n}, but this process started with {local}: start a new one without "
            "xla_force_host_platform_device_count in XLA_FLAGS"
        )


def _check_gpus(num_gpus: int, devices: list[jax.Device]) -> None:
    if devices[0].platform == "cpu":
        raise UserError(
            f"[run] num_gpus is {num_gpus} but JAX finds no accelerator here: set run.num_gpus=0 for the CPU"
        )
    if num_gpus > len(devices) or (jax.process_count() > 1 and num_gpus != len(devices)):
        raise UserError(
            f"[run] num_gpus is {num_gpus} but there are {len(devices)} accelerators: "
            f"set run.num_gpus={len(devices)}"
        )
