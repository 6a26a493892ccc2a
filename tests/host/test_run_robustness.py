"""Stops, kills, removed folders, damaged state: a run loses nothing and says what is wrong in one line."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dioscuri.checkpoint import store
from dioscuri.checkpoint.directory import RunDirectory
from dioscuri.cli.runs import train_command
from dioscuri.cli.sweep import sweep
from dioscuri.errors import UserError
from dioscuri.files import replacing
from dioscuri.places import Places
from dioscuri.run.train import train
from dioscuri.twins import Twin
from tests.host.test_run_directory import HOLD
from tests.host.test_sweep import TRAIN, write_table
from tests.support.fake_engine import FakeEngine
from tests.support.tiny import write_tiny

ROOT = Path(__file__).parents[2]


def validated_steps(context):
    lines = map(json.loads, context.directory.metrics.read_text().splitlines())
    return [line["step"] for line in lines if line["split"] == "val"]


def stop_at_step(step):
    def prepare(engine):
        engine.on_step = lambda index: os.kill(os.getpid(), signal.SIGTERM) if index == step else None

    return prepare


def stop_in_validation_of(step):
    """The signal arrives in the second batch of the validation after this many training batches."""

    def prepare(engine):
        evaluate, calls = engine.evaluate, []

        def interrupted(batch, **arguments):
            calls.append(engine.updates)
            if calls.count(step) == 2 and engine.updates == step:
                os.kill(os.getpid(), signal.SIGTERM)
            return evaluate(batch, **arguments)

        engine.evaluate = interrupted

    return prepare


@pytest.mark.parametrize(
    "prepare",
    [stop_at_step(2), stop_in_validation_of(3), stop_at_step(7), stop_in_validation_of(8)],
)
def test_a_validation_that_a_stop_prevented_is_made_up_for(make_run, prepare):
    """Validations are due after 3, 6 and 8 batches; the stop comes just before one or during one."""
    straight = make_run(name="straight")
    train(straight)
    train(make_run(prepare=prepare))
    train(make_run())
    stopped = make_run()
    newest = [store.load(run.directory.checkpoints) for run in (straight, stopped)]
    assert newest[0].info["best"] == newest[1].info["best"]
    assert newest[0].info["metrics"] == newest[1].info["metrics"]
    reports = [(run.directory.path / "report.json").read_text() for run in (straight, stopped)]
    assert reports[0] == reports[1]
    validated = [
        [
            json.loads(line)["step"]
            for line in run.directory.metrics.read_text().splitlines()
            if '"val"' in line
        ]
        for run in (straight, stopped)
    ]
    assert validated == [[3, 6, 8]] * 2


def test_a_finished_run_is_not_validated_again(make_run):
    train(make_run())
    again = make_run()
    before = store.load(again.directory.checkpoints).path.stat().st_mtime_ns
    train(again)
    assert validated_steps(again) == [3, 6, 8]
    assert store.load(again.directory.checkpoints).path.stat().st_mtime_ns == before


STATE = {"model": {"w": np.ones(2)}, "ema": {"w": np.ones(2)}, "counters": {"updates": np.array(3)}}
INFO = {
    "data": {"seed": 1, "next_index": 5, "batch_size": 2},
    "metrics": {"loss": 1.0},
    "best": None,
    "seconds": 1.5,
}


@pytest.fixture
def root(tmp_path):
    """Two intact checkpoints, of steps 1 and 2."""
    for step in (1, 2):
        store.save(tmp_path, step, STATE, INFO, keep=2)
    return tmp_path


def edit(root, change, *, format_1=False):
    path = store.folder(root, 2) / "state.json"
    content = json.loads(path.read_text())
    change(content)
    if format_1:
        content["format"] = 1
        content.pop("sha256")
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state["data"].update(next_index=4),
        lambda state: state.pop("data"),
        lambda state: state["counters"].update(updates=2),
        lambda state: state.update(best_step=1),
        lambda state: state.pop("sha256"),
        lambda state: state["metrics"].update(more=1),
    ],
)
def test_a_changed_state_is_damaged_and_the_one_before_is_used(root, change):
    edit(root, change)
    checkpoint = store.load(root)
    assert checkpoint.step == 1
    assert "state.json does not match its sha256" in checkpoint.warnings[0]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("data", [1]),
        ("data", {"next_index": "five"}),
        ("counters", {"updates": "x"}),
        ("counters", {"updates": [1]}),
        ("files", []),
        ("metrics", "none"),
        ("best", {"step": None}),
        ("best_step", "2"),
        ("seconds", "long"),
    ],
)
def test_wrong_types_in_an_old_state_without_checksum_are_named(root, name, value):
    edit(root, lambda state: state.update({name: value}), format_1=True)
    checkpoint = store.load(root)
    assert checkpoint.step == 1
    assert f"state.json: {name} " in checkpoint.warnings[0]


def test_states_of_version_0_1_0_are_read(root):
    edit(root, lambda _: None, format_1=True)
    assert store.load(root).step == 2


def test_layout_of_the_file_does_not_matter(root):
    path = store.folder(root, 2) / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text()), indent=7))
    assert store.load(root).step == 2


def test_a_run_whose_folder_is_removed_ends_with_one_line(make_run):
    def remove(index):
        if index == 4:
            shutil.rmtree(context.directory.path)

    context = make_run()
    context.engine.on_step = remove
    with pytest.raises(UserError, match="was removed during the run"), context.directory.locked():
        train(context)
    assert not context.directory.path.exists(), "no half of a folder is left"


def test_a_run_whose_lock_another_process_took_ends(make_run):
    context = make_run()
    context.engine.on_step = lambda _: (context.directory.path / "lock").write_text("1\n")
    with pytest.raises(UserError, match="taken by process 1"), context.directory.locked():
        train(context)


def test_half_written_files_of_killed_processes_are_removed(tmp_path):
    folder = tmp_path / "logs-x"
    (folder / "latents").mkdir(parents=True)
    litter = folder / "latents" / ".stats.json.4242.dioscuri-partial"
    litter.write_text("{")
    (folder / "latents" / "stats.json").write_text("{}")
    with RunDirectory(folder).locked():
        assert sorted(path.name for path in folder.rglob("*.*")) == ["stats.json"]


def test_a_log_that_is_a_folder_is_named(make_run):
    context = make_run()
    context.directory.metrics.mkdir()
    with pytest.raises(UserError, match=r"log .*metrics.jsonl cannot be written"):
        train(context)


def test_a_short_write_says_that_the_disk_is_full(tmp_path):
    with pytest.raises(UserError, match="no space left on the disk"), replacing(tmp_path / "a.npy"):
        raise OSError("21584 requested and 1984 written")


def test_a_sweep_waits_for_a_trainer_whose_supervisor_was_killed(tmp_path, monkeypatch, capsys):
    for twin in ("torch_impl", "jax_impl"):
        (tmp_path / twin).mkdir()
        (tmp_path / twin / "train.py").write_text(TRAIN)
    write_tiny(tmp_path)
    table = write_table(tmp_path, values="[run]\nseed = [1]\n")
    sweep([str(table)], Places(tmp_path))
    (run,) = (tmp_path / "torch_impl").glob("logs-*")
    shutil.rmtree(run)
    command = [sys.executable, "-c", HOLD, str(run)]
    trainer = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert trainer.stdout.readline() == b"held\n"
    started = (tmp_path / "torch_impl" / "started").read_text()
    looks = RunDirectory.in_use

    def looks_and_kills(directory):
        in_use = looks(directory)
        trainer.kill()
        return in_use

    monkeypatch.setattr(RunDirectory, "in_use", looks_and_kills)
    sweep([str(table)], Places(tmp_path))
    trainer.communicate()
    assert "waits for the process that trains it already" in capsys.readouterr().out
    assert (tmp_path / "torch_impl" / "started").read_text() != started, (
        "it is trained once the other has ended"
    )


def test_a_model_that_the_machine_cannot_hold_is_refused_before_anything_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr("dioscuri.run.sizes.machine_bytes", lambda: 30_000)
    with pytest.raises(
        UserError, match=r"take .* kB, but this machine has 30.0 kB of memory, [\d,]+ bytes too little"
    ):
        train_command(Twin("fake", FakeEngine, FakeEngine), tmp_path, [str(write_tiny(tmp_path))])
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("devices", "words", "message"),
    [
        (1, "train.shard=optimizer", r"\[train\] shard is 'optimizer', but there is one device"),
        (3, "", r"\[train\] batch_size 8 must be a multiple of devices x accumulation_steps, 3 x 1"),
        (2, "train.accumulation_steps=8", r"batch_size 8 must be a multiple of .*, 2 x 8"),
        (2, "train.shard=parameters train.compile=True", "does not compile a network that train.shard=param"),
    ],
)
def test_devices_that_cannot_share_a_run_are_refused_before_it_begins(make_run, devices, words, message):
    def several(engine):
        engine.device_count, engine.name = devices, "torch"

    context = make_run(*words.split(), prepare=several)
    with pytest.raises(UserError, match=message):
        train(context)
    assert not context.directory.checkpoints.exists()


def test_a_run_on_several_devices_tells_what_each_holds(make_run, capsys):
    def several(engine):
        engine.device_count = 2

    context = make_run("train.shard=optimizer", prepare=several)
    train(context)
    line = (
        "each of 2 devices holds weights 8 bytes, average 8 bytes, optimizer 16 bytes (train.shard=optimizer)"
    )
    assert line in capsys.readouterr().out
    memory = json.loads((context.directory.path / "report.json").read_text())["memory"]
    assert memory == {"devices": 2, "weights": 8, "average": 8, "optimizer": 16, "peak": 1000}
