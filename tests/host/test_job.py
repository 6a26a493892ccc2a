"""A process is one of several if its twin's environment variables say so."""

import pytest

from dioscuri.errors import UserError
from dioscuri.job import Job, job_of

VARIABLES = (
    *("RANK", "WORLD_SIZE", "JAX_PROCESS_ID", "JAX_NUM_PROCESSES", "SLURM_PROCID", "SLURM_NTASKS"),
    *("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "TPU_WORKER_HOSTNAMES", "TPU_WORKER_ID"),
)


@pytest.mark.parametrize(
    ("variables", "torch", "jax"),
    [
        ("", Job(), Job()),
        ("RANK=3", Job(), Job()),
        ("RANK=3 WORLD_SIZE=1", Job(), Job()),
        ("RANK=3 WORLD_SIZE=4", Job(3, 4), Job()),
        ("SLURM_PROCID=3", Job(), Job()),
        ("SLURM_PROCID=3 SLURM_NTASKS=4", Job(), Job(3, 4)),
        ("JAX_PROCESS_ID=1", Job(), Job()),
        ("JAX_PROCESS_ID=1 JAX_NUM_PROCESSES=2", Job(), Job(1, 2)),
        ("OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_SIZE=2", Job(), Job(1, 2)),
        ("TPU_WORKER_HOSTNAMES=a,b TPU_WORKER_ID=1", Job(), Job(1, 2)),
        ("TPU_WORKER_HOSTNAMES=a TPU_WORKER_ID=1", Job(), Job()),
        ("RANK=abc", Job(), Job()),
    ],
)
def test_place_among_the_processes(monkeypatch, variables, torch, jax):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for word in variables.split():
        monkeypatch.setenv(*word.split("="))
    assert (job_of("torch"), job_of("jax")) == (torch, jax)


@pytest.mark.parametrize("text", ["abc", "-1", "", "1.5"])
def test_what_is_no_number_is_named(monkeypatch, text):
    monkeypatch.setenv("WORLD_SIZE", text)
    with pytest.raises(UserError, match=f"environment variable WORLD_SIZE is '{text}', not a whole number"):
        job_of("torch")
