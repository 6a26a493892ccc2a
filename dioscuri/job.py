"""Whether this process is one of several that train a run together, from the variables of their launcher.

A variable such as RANK alone proves nothing: shells, schedulers and other programs leave it behind. A process
belongs to a job only if the number of processes is also set, and above 1.
"""

import os
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


def _number(variable: str, default: int) -> int:
    text = os.environ.get(variable, str(default))
    if not text.isdecimal():
        raise UserError(
            f"environment variable {variable} is '{text}', not a whole number: unset it, or correct it"
        )
    return int(text)
