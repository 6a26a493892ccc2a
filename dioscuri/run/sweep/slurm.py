"""Submits the runs of a sweep to SLURM: one array of jobs, limited in parallel, each training one run."""

import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from dioscuri.errors import UserError
from dioscuri.run.sweep.state import SweepFolder
from dioscuri.run.sweep.table import Run, Table


def submit(table: Table, words: Sequence[str], runs: Sequence[Run], folder: SweepFolder) -> str:
    """Submit the runs and return the answer of `sbatch`; a `UserError` if it refuses or is missing."""
    if shutil.which("sbatch") is None:
        raise UserError("sbatch is not on PATH: use a machine with SLURM, or set sweep.where=here")
    logs = folder.path / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    command = [
        "sbatch",
        f"--job-name=sweep-{table.sweep.name}",
        f"--array=0-{len(runs) - 1}%{table.sweep.processes}",
        f"--output={logs / 'slurm-%A_%a.out'}",
        *table.sweep.sbatch_options,
    ]
    done = subprocess.run(
        command,
        input=job_script(table, words, runs, folder.places.programs),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise UserError(f"sbatch refused the jobs: {done.stderr.strip() or done.stdout.strip()}")
    for run in runs:
        state = folder.state(run)
        if state.state != "running":
            state.state, state.message = "submitted", done.stdout.strip()
            folder.keep(run, state)
    return done.stdout.strip()


def job_script(table: Table, words: Sequence[str], runs: Sequence[Run], programs: Path) -> str:
    """The script in which job k trains run k. It holds names, since rows of the table may move meanwhile."""
    names = " ".join(shlex.quote(run.key) for run in runs)
    command = [sys.executable, "-P", "-m", "dioscuri", "sweep", str(table.path.absolute()), *words]
    return (
        f'#!/bin/sh\nset -- {names}\nshift "$SLURM_ARRAY_TASK_ID"\n'
        f"export PYTHONPATH={shlex.quote(str(programs))}${{PYTHONPATH:+:$PYTHONPATH}}\n"
        f'exec {shlex.join(command)} sweep.processes=1 --run "$1"\n'
    )
