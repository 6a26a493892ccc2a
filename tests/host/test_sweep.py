"""`dioscuri sweep`: a run for every combination, restarted after a crash, continued, submitted to SLURM."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from dioscuri.cli.sweep import sweep
from dioscuri.errors import UserError
from dioscuri.hparams import load
from dioscuri.places import Places
from dioscuri.run.sweep import workers
from dioscuri.run.sweep.state import SweepFolder
from dioscuri.run.sweep.table import open_table
from tests.support.tiny import write_tiny

ROOT = Path(__file__).parents[2]
SECONDS = 300

# Behaves like `train.py`, without a framework: its outcome depends on files next to it, named by the seed.
TRAIN = """
import configparser, json, os, pathlib, signal, sys, time
here = pathlib.Path(__file__).parent
cfg = configparser.ConfigParser(interpolation=None)
cfg.read(sys.argv[1])
for word in sys.argv[2:]:
    name, _, value = word.partition("=")
    section, _, option = name.partition(".")
    cfg[section][option] = value
run, seed = here / f"logs-{cfg['run']['name']}", cfg["run"]["seed"]
total = int(cfg["train"]["total_train_steps"])
with (here / "started").open("a") as file:
    file.write(f"{seed} {os.environ.get('CUDA_VISIBLE_DEVICES', '')}\\n")
checkpoints = run / "checkpoints"
begun = checkpoints.exists()
(checkpoints / "step-00000001").mkdir(parents=True, exist_ok=True)
if (here / f"crash-{seed}").exists() and not begun or (here / f"always-{seed}").exists():
    os.kill(os.getpid(), signal.SIGKILL)
if (here / f"wrong-{seed}").exists():
    sys.exit("error: [train] something is wrong" if 0 else print("error: something is wrong") or 2)
if (here / f"hangs-{seed}").exists() and not begun:
    (here / "hanging").touch()
    time.sleep(600)
if (here / f"waits-{seed}").exists():
    def leave(*_):
        sys.exit(0)
    signal.signal(signal.SIGTERM, leave)
    (here / f"waiting-{seed}").touch()
    time.sleep(600)
(checkpoints / f"step-{total:08d}").mkdir(exist_ok=True)
nelbo = float(seed) + float(cfg["optimizer"]["learning_rate"])
with (run / "metrics.jsonl").open("w") as file:
    for step in (1, total):
        file.write(json.dumps({"step": step, "split": "train", "Time/training_seconds": step / 2}) + "\\n")
        file.write(json.dumps({"step": step, "split": "val", "EMA_Losses/nelbo": nelbo + 1 / step}) + "\\n")
report = {"step": total, "unit": "bits/dim", "negative_elbo": nelbo, "kl": [1.0], "of": {"test": 7}}
report["size"] = {"parameters": 9}
(run / "report.json").write_text(json.dumps(report))
"""


@pytest.fixture
def root(tmp_path):
    """A tree with twins that train nothing, a configuration and a table of four runs."""
    for twin in ("torch_impl", "jax_impl"):
        (tmp_path / twin).mkdir()
        (tmp_path / twin / "train.py").write_text(TRAIN)
    write_tiny(tmp_path)
    write_table(tmp_path)
    return tmp_path


def write_table(
    root, *lines, sweep="", values="[run]\nseed = [1, 2]\n[optimizer]\nlearning_rate = [0.5, 0.25]\n"
):
    text = f"[sweep]\nname = trial\nbase = ['tiny.cfg']\nprocesses = 2\ntries = 2\n{sweep}\n{values}"
    (root / "table.sweep").write_text(text)
    return root / "table.sweep"


def write_command(root):
    """`dioscuri sweep TABLE`, with runs in the tree of the test."""
    program = root / "dioscuri" / "__main__.py"
    program.parent.mkdir()
    (program.parent / "__init__.py").write_text("")
    program.write_text(
        f"import sys; sys.path[0] = {str(ROOT)!r}; del sys.modules['dioscuri']\nfrom pathlib import Path\n"
        "from dioscuri.cli.sweep import sweep\nfrom dioscuri.places import Places\n"
        f"sweep(sys.argv[2:], Places(Path({str(root)!r})))\n"
    )
    return [sys.executable, "-m", "dioscuri", "sweep", root / "table.sweep"]


def started(root, twin="torch_impl"):
    """Seeds of the runs that were started, sorted."""
    path = root / twin / "started"
    return sorted(line.split(" ")[0] for line in path.read_text().splitlines()) if path.exists() else []


def rows(root):
    with (root / "logs-sweep-trial" / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def call(root, *words):
    sweep([str(root / "table.sweep"), *words], Places(root))


def test_every_combination_is_a_run_and_everything_is_reported(root, capsys):
    write_table(root, sweep="twin = ['torch', 'jax']")
    call(root)
    assert started(root) == started(root, "jax_impl") == ["1", "1", "2", "2"]
    table = rows(root)
    assert len({(row["run"], row["twin"]) for row in table}) == 8
    values = {(row["run.seed"], row["optimizer.learning_rate"], row["test.negative_elbo"]) for row in table}
    assert values == {("1", "0.5", "1.5"), ("2", "0.5", "2.5"), ("1", "0.25", "1.25"), ("2", "0.25", "2.25")}
    assert {
        (row["state"], row["batches"], row["training_seconds"], row["test.of.test"], row["size.parameters"])
        for row in table
    } == {("finished", "8", "4.0", "7", "9")}
    run = load(root / "logs-sweep-trial" / "configurations" / "torch-trial-seed2-learning_rate0.25.cfg")
    assert (run.run.seed, run.optimizer.learning_rate, run.run.name) == (
        2,
        0.25,
        "trial-seed2-learning_rate0.25",
    )
    output = capsys.readouterr().out
    assert (
        "optimizer.learning_rate=0.25 torch: 2 of 2 finished, test negative_elbo bits/dim 1.7500 ± 0.7071"
        in output
    )
    with Image.open(root / "logs-sweep-trial" / "curves.png") as picture:
        assert len(picture.getcolors(10**6)) > 10


def test_a_crash_is_followed_by_another_try_and_a_second_start_does_what_is_left(root, capsys):
    write_table(root, values="[run]\nseed = [1, 2, 3, 4]\n")
    twin = root / "torch_impl"
    for name in ("crash-1", "always-2", "wrong-3"):
        (twin / name).touch()
    with pytest.raises(SystemExit) as left:
        call(root)
    assert left.value.code == 1
    states = {row["run.seed"]: (row["state"], row["starts"], row["message"]) for row in rows(root)}
    assert states["1"] == ("finished", "2", "")
    assert states["2"] == ("failed", "2", "signal 9: it printed nothing")
    assert states["3"] == ("failed", "1", "exit code 2: error: something is wrong"), (
        "a user's mistake stays one"
    )
    assert states["4"] == ("finished", "1", "")
    assert "torch-trial-seed1: crashed (signal 9: it printed nothing); 1 more try" in capsys.readouterr().out
    for name in ("always-2", "wrong-3"):
        (twin / name).unlink()
    (twin / "started").unlink()
    call(root)
    assert started(root) == ["2", "3"], "finished runs are skipped"
    assert {row["state"] for row in rows(root)} == {"finished"}
    call(root, "run.seed=[1, 2]", "train.total_train_steps=9")
    assert started(root) == ["1", "2", "2", "3"], "a longer training continues"


def test_a_run_that_hangs_is_started_again(root, monkeypatch, capsys):
    """An hour passes once it hangs and the other one has ended."""
    twin = root / "torch_impl"
    write_table(root, sweep="silence = 900", values="[run]\nseed = [1, 2]\n")
    (twin / "hangs-1").touch()

    def now():
        hour = (twin / "hanging").exists() and (twin / "logs-trial-seed2" / "report.json").exists()
        return time.time() + 3600 * hour

    monkeypatch.setattr(workers, "time", SimpleNamespace(time=now, monotonic=time.monotonic))
    call(root)
    assert {(row["run.seed"], row["state"], row["starts"]) for row in rows(root)} == {
        ("1", "finished", "2"),
        ("2", "finished", "1"),
    }
    assert "torch-trial-seed1: has said nothing for 900 seconds and is ended" in capsys.readouterr().out
    for path in (root / "logs-sweep-trial").rglob("*.log"):
        os.utime(path, (1, 1))
    call(root, "train.total_train_steps=9")
    assert started(root) == ["1", "1", "1", "2", "2"], "an old log is no silence"


def test_asked_to_stop_it_lets_every_run_save_and_the_same_command_continues(root):
    write_table(root, values="[run]\nseed = [1, 2, 3]\n")
    for seed in (1, 2, 3):
        (root / "torch_impl" / f"waits-{seed}").touch()
    process = subprocess.Popen(write_command(root), cwd=root)
    deadline = time.monotonic() + SECONDS
    while len(list(root.glob("torch_impl/waiting-*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    folder = SweepFolder(Places(root), "trial")
    first = open_table(root / "table.sweep", [], Places(root)).runs[0]
    with pytest.raises(UserError, match=f"in use by process {process.pid}"), folder.lock(first).locked():
        pass
    process.send_signal(signal.SIGTERM)
    assert process.wait(SECONDS) == 128 + signal.SIGINT
    states = [row["state"] for row in rows(root)]
    assert sorted(states) == ["stopped", "stopped", "waiting"]
    for path in root.glob("torch_impl/waits-*"):
        path.unlink()
    call(root)
    assert {row["state"] for row in rows(root)} == {"finished"}


def test_devices_are_given_in_turn(root):
    write_table(root, sweep="devices = ['3', '5']", values="[run]\nseed = [1, 2]\n")
    for seed in (1, 2):
        (root / "torch_impl" / f"crash-{seed}").touch()
    call(root)
    lines = (root / "torch_impl" / "started").read_text().split("\n")[:-1]
    assert {line.split(" ")[1] for line in lines} <= {"3", "5"}
    assert len(lines) == 4


SBATCH = """#!/bin/sh
for word in "$@"; do echo "$word" >> {log}; done
cat > {script}
echo "Submitted batch job 7"
"""


def test_under_slurm_it_submits_and_each_job_trains_its_run(root, monkeypatch, capsys):
    write_table(root, sweep="sbatch_options = ['--gres=gpu:1']", values="[run]\nseed = [1, 2, 3]\n")
    call(root, "run.seed=[1]")
    programs = root / "programs"
    programs.mkdir()
    script, log = root / "script.sh", root / "sbatch.log"
    (programs / "sbatch").write_text(SBATCH.format(log=log, script=script))
    (programs / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "3")
    write_table(root, values="[run]\nseed = [1, 2, 3]\n", sweep="sbatch_options = ['--gres=gpu:1']")
    call(root)
    words = log.read_text().splitlines()
    assert {"--array=0-2%2", "--gres=gpu:1", "--job-name=sweep-trial"} <= set(words)
    assert "Submitted batch job 7" in capsys.readouterr().out
    assert started(root) == ["1"], "nothing more is trained here"
    assert [row["state"] for row in rows(root)] == ["finished"], "results are those of the first start"
    write_command(root)
    done = subprocess.run(
        ["sh", script],
        env=os.environ | {"SLURM_ARRAY_TASK_ID": "2"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert started(root) == ["1", "3"]
    assert {row["run.seed"]: row["state"] for row in rows(root)}["3"] == "finished"
    (programs / "sbatch").write_text("#!/bin/sh\necho 'no such partition' >&2\nexit 1\n")
    with pytest.raises(UserError, match="sbatch refused the jobs: no such partition"):
        call(root)
    monkeypatch.setenv("PATH", str(root))
    with pytest.raises(UserError, match="sbatch is not on PATH"):
        call(root, "sweep.where=slurm")


BAD = {
    "[sweep]\nname = trial\n[run]\nseed = [1]\n": r"\[sweep\] lacks base",
    "[sweep]\nname = trial\nbase = []\n": r"\[sweep\] base is empty",
    "[sweep]\nname = a/b\nbase = ['tiny.cfg']\n": r"\[sweep\] name 'a/b'",
    "[sweep]\nname = trial\nbase = ['none.cfg']\n": r"none.cfg does not exist",
    "[sweep]\nname = trial\nbase = ['tiny.cfg']\ntwin = ['flax']\n": r"twin 'flax' is unknown",
    "[sweep]\nname = trial\nbase = ['tiny.cfg']\nproceses = 2\n": r"proceses is unknown \(did you mean",
    "{head}[run]\nname = x\n": r"\[run\] name is generated from the values",
    "{head}[run]\nseed = []\n": r"\[run\] seed is empty",
    "{head}[run]\nseed = [1, 1]\n": r"\[run\] seed holds a value twice",
    "{head}[run]\nseed = [1, -1]\n": r"table.sweep: \[run\] seed must be at least 0, not -1",
    "{head}[run]\nsead = [1, 2]\n": r"table.sweep: \[run\] sead is unknown \(did you mean 'seed'",
    "{head}[optimizer]\nlearning_rate = ['fast']\n": r"learning_rate must be a number, not 'fast'",
    "{head}[run]\nseed = [1, 2\n": r"\[run\] seed",
    "{head}[run]\nseed = range(200)\n[train]\nbatch_size = range(1, 99)\n": "more than 10000 combinations",
    "{head}[data]\ndataset_path = ['a b', 'a_b']\n": "two runs would be called 'trial-dataset_patha_b'",
    "no table at all": "no section|first option|not",
}


@pytest.mark.parametrize("text", BAD)
def test_bad_table_is_one_line_before_anything_starts(root, text):
    (root / "table.sweep").write_text(text.format(head="[sweep]\nname = trial\nbase = ['tiny.cfg']\n"))
    with pytest.raises(UserError, match=BAD[text]) as error:
        call(root)
    assert "\n" not in str(error.value)
    assert not (root / "logs-sweep-trial").exists()
    assert not started(root)


def test_command_line_says_what_is_wrong(root):
    for words, message in (
        (["--run", "torch-trial-seed9"], "has no run 'torch-trial-seed9'"),
        (["--quick"], "usage: dioscuri sweep TABLE"),
        (["--list", "--results"], "not allowed with"),
    ):
        with pytest.raises(UserError, match=message):
            call(root, *words)
    result = subprocess.run(
        [sys.executable, "-m", "dioscuri", "sweep", "nowhere.sweep"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("error: configuration nowhere.sweep does not exist: give a file")
    assert "egs/sweeps/" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_long_names_are_short_and_stay_the_same(root):
    long = "'" + "x" * 60 + "'"
    paths = f"train_data_path = [{long}, 'y']\nval_data_path = [{long}, 'y']\n"
    write_table(root, values=f"[data]\ndataset_source = 'custom'\n{paths}")
    names = [run.name for run in open_table(root / "table.sweep", [], Places(root)).runs]
    paths = f"train_data_path = ['y', 'z', {long}]\nval_data_path = [{long}, 'y']\n"
    write_table(root, values=f"[data]\ndataset_source = 'custom'\n{paths}")
    more = [run.name for run in open_table(root / "table.sweep", [], Places(root)).runs]
    assert set(names) < set(more)
    assert all(len(name) <= 100 for name in more)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "egs" / "sweeps").glob("*.sweep")), ids=lambda path: path.stem
)
def test_shipped_table_names_runs_that_would_start(path, tmp_path, monkeypatch):
    """With a tokenizer where token models expect it."""
    monkeypatch.setenv("DIOSCURI_RUNS", str(tmp_path))
    (tmp_path / f"logs-tokenizer_{path.stem}").symlink_to(ROOT / "pretrained" / "mnist10k-tokenizer")
    runs = open_table(path, [], Places(ROOT)).runs
    assert len({run.key for run in runs}) == len(runs) > 1
