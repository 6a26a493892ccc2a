"""The check of a card: its command lines are valid, its time is kept, and results are written at once."""

import json
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from dioscuri.checkpoint.pretrained import write_folder
from dioscuri.cli.runs import parse as parse_run
from dioscuri.contract import check_options
from dioscuri.data import open_datasets
from dioscuri.errors import UserError
from dioscuri.hparams import load
from tools import benchmark, gpu_check
from tools.gpu import parity, pictures, rows, training
from tools.gpu.session import Session

MINUTE = 60


class Recorded(Session):
    """A session whose programs are only written down; each prints the numbers of a benchmark."""

    def start(self, title, words):  # noqa: ARG002 - of the session
        self.commands = [*getattr(self, "commands", []), list(words)]
        return Done()


class Done:
    seconds = 1.0

    def finish(self, seconds):
        pass

    def outcome(self):
        return {"status": "done"}

    def records(self):
        return [{"ms_per_step": 10.0, "product_gflops": 5e5}]


@pytest.fixture(params=[False, True], ids=["card", "rehearsal"])
def session(request, tmp_path):
    out, work, data = (tmp_path / name for name in ("out", "work", "data"))
    for folder in (out, work, data):
        folder.mkdir()
    pictures.random_pictures(data)
    return Recorded(out, work, time.monotonic() + 9 * MINUTE, request.param)


def test_every_row_is_a_call_of_the_benchmark(session, monkeypatch):
    # Options alone are checked here; the weights of these tokenizers are half a gigabyte.
    monkeypatch.setattr(rows, "initial_values", lambda table, seed: {} if table else {"seed": seed})
    rows.measure_rows(session, session.end)
    # In a rehearsal, rows that differ only by size or compilation are one.
    n = 8 if session.rehearse else len(rows.ROWS)
    assert len(session.commands) == len({tuple(command) for command in session.commands}) == n
    for command in session.commands:
        options = benchmark.parse(command[1:])
        hparams = load(options.cfg, [f"train.batch_size={options.batch}", *options.overrides])
        check_options(hparams)
        assert hparams.run.num_gpus == (0 if session.rehearse else 1)
    results = json.loads((session.out / "results.json").read_text())
    assert [row["product_tflops"] for row in results["rows"]] == [500.0] * n
    assert "| 10.0 |" in (session.out / "results.md").read_text()


@pytest.mark.parametrize("part", [training.train_digits, training.train_tokens])
def test_every_training_has_valid_options_and_finds_its_pictures(session, part):
    part(session, session.out.parent / "data", session.end)
    commands = [command for command in session.commands if command[0].endswith("train.py")]
    assert len(commands) == 2
    for command in commands:
        arguments = parse_run(command[1:], resumes=True)
        hparams = load(arguments.cfg, arguments.overrides)
        check_options(hparams)
        if hparams.run.family == "vqgan":
            # Instead of its training: the last run needs its options.
            write_folder(Path(hparams.run.root, f"logs-{hparams.run.name}"), hparams, {})
        train = open_datasets(hparams).train
        assert len(train) > 100
        assert train.gather(np.arange(2)).shape[0] == 2
        steps = hparams.train.total_train_steps
        assert steps == 4 if session.rehearse else steps > 1000


def test_pictures_become_what_the_runs_read(tmp_path):
    """A JPEG of one colour has that colour in CIFAR-10's records."""
    pictures.random_pictures(tmp_path, n_train=10, n_test=5)
    pictures.write_cifar(tmp_path, tmp_path)
    record = np.fromfile(tmp_path / "cifar-10" / "data_batch_1.bin", np.uint8).reshape(-1, 3073)
    assert record[:, 0].tolist() == [0, 1]
    assert record[:, 1:].std() > 10
    with pytest.raises(UserError, match="give the folder that holds it with --data"):
        pictures.write_mnist(tmp_path / "nowhere", tmp_path)


def test_the_twins_agree_on_the_smallest_network():
    result = parity.compare("classifier", 0)
    assert result["passed"], result
    assert result["metrics"] <= parity.TOLERANCE


def test_numbers_that_are_not_finite_do_not_pass(monkeypatch):
    monkeypatch.setattr(parity, "_training", lambda *_: float("nan"))
    monkeypatch.setattr(parity, "_weights", lambda *_: 0.0)
    monkeypatch.setattr(parity, "_methods", lambda *_: {})
    assert not parity.compare("classifier", 0)["passed"]


def test_parts_whose_time_is_up_are_skipped(tmp_path):
    words = ["--rehearse", "--minutes", "0.01", "--out", str(tmp_path), "--parts", "rows,cifar10"]
    gpu_check.main(words)
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["rows"] == results["cifar10"] == {"status": "skipped: its time was up"}
    assert "jax" in results["versions"]


def test_a_program_that_takes_too_long_is_stopped(tmp_path):
    (tmp_path / "work").mkdir()
    program = tmp_path / "slow.py"
    program.write_text("import time\nprint('{\"done\": 1}', flush=True)\ntime.sleep(600)\n")
    session = Session(tmp_path, tmp_path / "work", time.monotonic() + MINUTE)
    slow = session.start("slow", [str(program)])
    while not slow.records():
        assert slow.process.poll() is None
        time.sleep(0.05)
    slow.finish(0.1)
    assert slow.process.returncode == -signal.SIGTERM
    assert slow.outcome()["status"] == "out of time"
    assert slow.records() == [{"done": 1}]
    assert "slow (out of time" in (tmp_path / "log.txt").read_text()


@pytest.mark.slow
def test_a_rehearsal_measures_and_writes(tmp_path):
    """One row by the real benchmark, in a process of its own."""
    only = "SUNDAE, one sample of 1024x1024, PyTorch"
    words = ["--rehearse", "--minutes", "30", "--out", str(tmp_path), "--parts", "rows", "--rows", only]
    gpu_check.main(words)
    (row,) = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert row["status"] == "done"
    assert row["ms_per_step"] > 0
    assert {file.name for file in tmp_path.iterdir()} == {"results.json", "results.md", "log.txt"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--parts", "rows,speed"], "--parts speed is unknown"),
        (["--minutes", "0"], "--minutes 0 must be above 0"),
        (["--data", "nowhere"], "cifar10_jpeg_20k.npz does not exist"),
    ],
)
def test_wrong_arguments_are_named(words, message, tmp_path):
    with pytest.raises(UserError, match=message):
        gpu_check.main(["--out", str(tmp_path / "out"), *words])
    assert not Path(tmp_path / "out").exists()
