"""Runs that end after a fixed time of training."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from dioscuri.places import Places
from dioscuri.run import clock
from dioscuri.run.stopping import REQUEST, TIME, Stop
from dioscuri.run.sweep.state import SweepFolder
from dioscuri.run.train import train
from tests.support.metrics import logged


@pytest.fixture
def seconds(monkeypatch):
    """Clocks that a test moves, instead of those of the machine."""
    now = {"wall": 0.0, "cpu": 0.0}
    monkeypatch.setattr(clock.time, "monotonic", lambda: now["wall"])
    monkeypatch.setattr(clock.time, "process_time", lambda: now["cpu"])
    return now


def takes(seconds, each, at=None):
    """Prepare an engine whose steps take `each[clock]` seconds, and whose validations take 1,000; step `at`
    receives a signal."""

    def prepare(engine):
        evaluate = engine.evaluate

        def on_step(index):
            for name, value in each.items():
                seconds[name] += value
            if index == at:
                os.kill(os.getpid(), signal.SIGTERM)

        def evaluated(*arguments, **options):
            seconds.update({name: value + 1000 for name, value in seconds.items()})
            return evaluate(*arguments, **options)

        engine.on_step, engine.evaluate = on_step, evaluated

    return prepare


@pytest.mark.parametrize(("name", "steps"), [("wall", 2), ("cpu", 5)])
def test_a_time_limit_ends_a_run_with_a_validation_and_a_report(make_run, seconds, capsys, name, steps):
    """The steps take 10 seconds on the wall, 4 of them computing."""
    words = (f"train.time_limit_clock={name}", "train.time_limit_in_seconds=20")
    each = {"wall": 10, "cpu": 4}
    context = make_run(*words, prepare=takes(seconds, each))
    train(context)
    assert context.engine.seen == list(range(steps))
    assert logged(context, "val")[-1]["step"] == steps
    assert logged(context)[-1]["Time/training_seconds"] == 10 * steps
    assert logged(context)[-1]["Time/training_cpu_seconds"] == 4 * steps
    assert "299 test pictures: -ELBO" in capsys.readouterr().out
    again = make_run(*words)
    train(again)
    assert again.engine.seen == []
    assert f"trained for its 20 seconds ({name}): raise train.time_limit_in_" in capsys.readouterr().out
    longer = make_run(words[0], "train.time_limit_in_seconds=24", prepare=takes(seconds, each))
    train(longer)
    assert longer.engine.seen == list(range(steps, steps + 1))


def test_a_resumed_run_counts_the_time_of_its_first_start(make_run, seconds):
    words = ("train.time_limit_in_seconds=30",)
    first = make_run(*words, prepare=takes(seconds, {"wall": 10}, at=1))
    train(first)
    seconds["wall"] += 5000
    second = make_run(*words, prepare=takes(seconds, {"wall": 10}))
    train(second)
    assert (first.engine.seen, second.engine.seen) == ([0, 1], [2])


def test_a_run_stopped_at_the_end_of_its_time_is_validated_later(make_run, seconds):
    words = ("train.time_limit_in_seconds=20",)
    train(make_run(*words, prepare=takes(seconds, {"wall": 10}, at=1)))
    again = make_run(*words)
    assert logged(again, "val") == []
    train(again)
    assert again.engine.seen == []
    assert [line["step"] for line in logged(again, "val")] == [2]


def test_a_sweep_counts_a_run_out_of_time_as_finished(make_run, seconds, tmp_path):
    context = make_run("train.time_limit_in_seconds=20", prepare=takes(seconds, {"wall": 10}))
    folder = SweepFolder(Places(programs=tmp_path, work=tmp_path), "trial")
    run = SimpleNamespace(hparams=context.hparams, twin="torch", name="tiny")
    assert not folder.reached_end(run)
    train(context)
    assert folder.reached_end(run)
    longer = make_run("train.time_limit_in_seconds=30")
    assert not folder.reached_end(SimpleNamespace(hparams=longer.hparams, twin="torch", name="tiny"))


@pytest.mark.parametrize("reason", [REQUEST, TIME])
def test_processes_end_at_the_step_that_the_first_one_chooses(tmp_path, reason):
    """The clocks of the others do not matter, and they hear of a request only from it."""
    late = False
    engines = [SimpleNamespace(process_count=2, process_index=k) for k in range(2)]
    first = Stop(engines[0], tmp_path, lambda: late)
    second = Stop(engines[1], tmp_path, lambda: False)
    first.announce(4)
    assert [stop.after(4, fetched=True) for stop in (first, second)] == ["", ""]
    first.requested, late = reason == REQUEST, reason == TIME
    first.announce(6)
    assert [stop.after(5, fetched=False) for stop in (first, second)] == ["", ""]
    assert [stop.after(6, fetched=True) for stop in (first, second)] == [reason, reason]


def test_a_run_in_another_thread_leaves_signals_alone(tmp_path):
    stop = Stop(SimpleNamespace(process_count=1, process_index=0), tmp_path, lambda: False)

    def handler():
        with stop.listening():
            return signal.getsignal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    assert handler() is not before
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(handler).result() is before
    assert signal.getsignal(signal.SIGINT) is before
