"""Starts one process per device on this machine, for a twin whose engine needs it.

The processes get the environment variables of torchrun. Unlike with torchrun, a stop signal is forwarded
once, without a time limit, and a run that saved and stopped exits with code 0.
"""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

from dioscuri.job import free_port

_SECONDS_TO_EXPLAIN = 30


def launch(n_processes: int) -> int:
    """Run this command line in `n_processes` processes; returns the first exit code that is not 0, or 0.

    If one process fails, the others are killed.
    """
    port = free_port()
    workers = [_start(rank, n_processes, port) for rank in range(n_processes)]

    def forward(number: int, _frame: object) -> None:
        _send(workers, number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, forward)
    return _wait(workers)


def _start(rank: int, n_processes: int, port: int) -> subprocess.Popen:
    environment = os.environ | {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(n_processes),
        "LOCAL_WORLD_SIZE": str(n_processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    # A new session, so that an interrupt from the terminal reaches a worker once, through `forward`.
    return subprocess.Popen([sys.executable, *sys.orig_argv[1:]], env=environment, start_new_session=True)


def _send(workers: list[subprocess.Popen], number: int) -> None:
    for worker in workers:
        if worker.poll() is None:
            worker.send_signal(number)


def _wait(workers: list[subprocess.Popen]) -> int:
    """Wait for all workers. If another one fails first, rank 0 gets time to report the error."""
    while True:
        codes = [worker.poll() for worker in workers]
        if any(codes):
            break
        if all(code == 0 for code in codes):
            return 0
        time.sleep(0.1)
    rank, failed = next((rank, code) for rank, code in enumerate(codes) if code)
    with suppress(subprocess.TimeoutExpired):
        workers[0].wait(_SECONDS_TO_EXPLAIN)
    _send(workers, signal.SIGKILL)
    for worker in workers:
        worker.wait()
    if failed > 0:
        return failed
    if workers[0].returncode > 0:  # the first process has said that it lost another one
        return workers[0].returncode
    print(
        f"error: process {rank} of {len(workers)} was ended by {signal.Signals(-failed).name}: the same "
        "command continues from the newest checkpoint, also on fewer devices",
        file=sys.stderr,
    )
    return 128 - failed
