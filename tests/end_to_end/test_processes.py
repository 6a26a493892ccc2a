"""Runs in separate processes: stopped, killed, started twice, and several for one run."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dioscuri.checkpoint import store
from dioscuri.job import free_port
from tests.support.tiny import write_tiny
from tests.support.tiny_classifier import DIGITS, SMALL
from tests.support.twins import FAKE, JAX, ROOT, TORCH, start

LONG = ("train.total_train_steps=1000000", "train.checkpoint_and_eval_interval_in_steps=20")
SECONDS = 300

SEVERAL = TORCH.replace(
    "run_command(",
    """
from dioscuri.cli.launch import launch
from dioscuri.job import job_of
if job_of("torch").count == 1:
    sys.exit(launch(2))
run_command(""",
)


@pytest.fixture
def begin(tmp_path):
    """Start processes that end with the test."""
    processes = []

    def begin(script, *words, cfg=None):
        processes.append(start(tmp_path, script, cfg or write_tiny(tmp_path), *words))
        return processes[-1]

    yield begin
    for process in processes:
        process.kill()
        process.communicate()


def wait_for(process, condition, what):
    deadline = time.monotonic() + SECONDS
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail(f"no {what}: {process.communicate()}")
        time.sleep(0.05)


@pytest.mark.slow
def test_second_process_is_refused_and_a_killed_run_continues_until_it_is_asked_to_stop(tmp_path, begin):
    checkpoints = tmp_path / "logs-tiny" / "checkpoints"
    first = begin(FAKE, *LONG)
    wait_for(first, lambda: store.steps(checkpoints), "checkpoint")
    second = begin(FAKE, *LONG)
    out, errors = second.communicate(timeout=SECONDS)
    assert (second.returncode, len(errors.splitlines())) == (2, 1)
    assert f"in use by process {first.pid}" in errors
    assert first.poll() is None
    first.send_signal(signal.SIGKILL)
    first.wait()
    before = store.steps(checkpoints)[-1]

    third = begin(FAKE, *LONG)
    wait_for(third, lambda: store.steps(checkpoints)[-1] > before, "further checkpoint")
    third.send_signal(signal.SIGTERM)
    out, errors = third.communicate(timeout=SECONDS)
    assert third.returncode == 0, errors
    assert "asked to stop: saved after step" in out
    lines = [json.loads(line) for line in (tmp_path / "logs-tiny" / "metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if line["split"] == "train"]
    assert steps == list(range(1, store.steps(checkpoints)[-1] + 1))


@pytest.mark.slow
def test_processes_of_one_run_train_together_and_stop_together(tmp_path, begin):
    checkpoints = tmp_path / "logs-tiny" / "checkpoints"
    process = begin(SEVERAL, *LONG)
    wait_for(process, lambda: store.steps(checkpoints), "checkpoint")
    process.send_signal(signal.SIGTERM)
    out, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, errors
    assert out.count("asked to stop: saved after step") == 1
    assert store.load(checkpoints).info["data"]["batch_size"] == 8


@pytest.mark.slow
def test_a_killed_process_ends_the_run_in_one_line_and_fewer_devices_go_on(tmp_path, begin):
    checkpoints = tmp_path / "logs-tiny" / "checkpoints"
    process = begin(SEVERAL, *LONG, "train.shard=parameters", "run.timeout=200")
    wait_for(process, lambda: store.steps(checkpoints), "checkpoint")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[1]), signal.SIGKILL)
    out, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 2, errors
    assert "each of 2 devices holds weights" in out
    assert errors.count("error: another process of this run has ended") == errors.count("error") == 1
    assert "Traceback" not in errors

    steps = store.steps(checkpoints)[-1] + 1
    alone = begin(TORCH, f"train.total_train_steps={steps}", "train.shard=none")
    out, errors = alone.communicate(timeout=SECONDS)
    assert alone.returncode == 0, errors
    report = json.loads((tmp_path / "logs-tiny" / "report.json").read_text())
    assert (report["step"] <= steps, report["memory"]["devices"]) == (True, 1)


@pytest.mark.slow
@pytest.mark.parametrize("script", [TORCH, JAX], ids=["torch", "jax"])
def test_a_coordinator_that_cannot_be_reached_is_named_after_the_time_given(begin, monkeypatch, script):
    variables = {"RANK": 1, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 9}
    if script is JAX:
        variables = {
            "JAX_PROCESS_ID": 1,
            "JAX_NUM_PROCESSES": 2,
            "JAX_COORDINATOR_ADDRESS": "127.0.0.1:9",
        }
    for name, value in variables.items():
        monkeypatch.setenv(name, str(value))
    process = begin(script, "run.timeout=2")
    _, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 2, errors
    assert errors.startswith(
        "error: the 2 processes of this run did not all meet at the coordinator 127.0.0.1:9"
    )
    assert len(errors.splitlines()) == 1


@pytest.fixture
def ends_of_two(begin, monkeypatch):
    """Run a script as two JAX processes; what each printed, its errors and its exit code."""

    def ends_of_two(*arguments, cfg):
        monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", f"127.0.0.1:{free_port()}")
        monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
        processes = []
        for rank in range(2):
            monkeypatch.setenv("JAX_PROCESS_ID", str(rank))
            processes.append(begin(*arguments, cfg=cfg))
        return [(*process.communicate(timeout=SECONDS), process.returncode) for process in processes]

    return ends_of_two


@pytest.mark.slow
def test_the_first_jax_process_outlives_the_others(ends_of_two):
    """Its coordinator kills those that leave after it."""
    slow = """
import time
from jax_impl.devices import open_devices
time.sleep(2 * open_devices(0, 1).process_index)"""
    results = ends_of_two(slow, cfg=DIGITS)
    assert [code for *_, code in results] == [0, 0], results


@pytest.mark.slow
def test_processes_of_one_run_report_the_checkpoint_that_one_of_them_has_written(ends_of_two):
    results = ends_of_two(JAX, *SMALL, "train.total_train_steps=2", cfg=DIGITS)
    assert [code for *_, code in results] == [0, 0], results
    assert "checkpoint of step 2" in results[0][0]


@pytest.mark.parametrize("twin", ["torch_impl", "jax_impl"])
@pytest.mark.parametrize("job", ["train", "synthesize"])
def test_scripts_run_from_anywhere(tmp_path, twin, job):
    command = [sys.executable, str(ROOT / twin / f"{job}.py"), "--nonsense"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: unknown option '--nonsense'; usage:")
    assert len(done.stderr.splitlines()) == 1
