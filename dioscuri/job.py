"""Whether this process is one of several that train a run together, from the variables of their launcher.

A variable such as RANK alone proves nothing: shells, schedulers and other programs leave it behind. A process
belongs to a job only if the number of processes is also set, and above 1.
"""

import os
import random
import socket
import time
from contextlib import suppress
from dataclasses import dataclass

from dioscuri.errors import UserError

_VARIABLES = {
    "torch": (("RANK", "WORLD_SIZE"),),
    "jax": (
        ("JAX_PROCESS_ID", "JAX_NUM_PROCESSES"),
        ("SLURM_PROCID", "SLURM_NTASKS"),
        ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ),
}
"""Twin -> variables with the process's index and with the number of processes."""


_SECONDS_BETWEEN_TRIES = 0.2


@dataclass(frozen=True)
class Job:
    """The process's index among `count` processes."""

    index: int = 0
    count: int = 1


def job_of(twin: str) -> Job:
    """This process's index among those of its run; a `UserError` if a variable is not a whole number."""
    for index, count in _VARIABLES.get(twin, ()):
        if (n := _number(count, 1)) > 1:
            return Job(_number(index, 0), n)
    hosts = os.environ.get("TPU_WORKER_HOSTNAMES", "").split(",")
    if twin == "jax" and len(hosts) > 1:
        return Job(_number("TPU_WORKER_ID", 0), len(hosts))
    return Job()


def free_port() -> int:
    """A free port of this machine, below those that systems give to programs which ask for any: none of them
    takes it before it is used."""
    while True:
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", random.SystemRandom().randrange(10_000, 30_000)))
            return int(probe.getsockname()[1])


def await_coordinator(address: str, count: int, timeout: int) -> None:
    """Wait until the coordinator HOST:PORT of `count` processes can be reached; a `UserError` if that takes
    longer than `timeout` seconds. The frameworks' clients print much, and JAX's kills the process."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise UserError(f"the coordinator's address '{address}' is not HOST:PORT: correct the variable")
    deadline = time.monotonic() + timeout
    while True:
        with suppress(OSError), socket.create_connection((host.strip("[]"), int(port)), timeout):
            return
        if time.monotonic() > deadline:
            raise UserError(not_joined(address, count, timeout))
        time.sleep(_SECONDS_BETWEEN_TRIES)


def not_joined(where: str, count: int, timeout: int) -> str:
    """The message for a job whose processes have not all met."""
    return (
        f"the {count} processes of this run did not all meet at the coordinator {where} within {timeout} "
        "seconds: check that its address and port can be reached from here and that every process was "
        "started, or raise run.timeout"
    )


def lost_process(timeout: int) -> str:
    """The message for a run that another process has left."""
    return (
        f"another process of this run has ended, or has not answered for {timeout} seconds (run.timeout): "
        "the same command continues from the newest checkpoint, also on fewer devices"
    )


def _number(variable: str, default: int) -> int:
    text = os.environ.get(variable, str(default))
    if not text.isdecimal():
        raise UserError(
            f"environment variable {variable} is '{text}', not a whole number: unset it, or correct it"
        )
    return int(text)
