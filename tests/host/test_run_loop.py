"""The training loop, with an engine that needs no framework."""

import json
import os
import signal
from contextlib import nullcontext

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dioscuri.checkpoint import store
from dioscuri.errors import UserError
from dioscuri.run.sizes import size_line
from dioscuri.run.synthesize import synthesize
from dioscuri.run.train import train
from tests.support.metrics import logged


def interrupt_at(step, number=signal.SIGTERM):
    """Prepare an engine that receives a signal during a step."""

    def prepare(engine):
        engine.on_step = lambda index: os.kill(os.getpid(), number) if index == step else None

    return prepare


def test_no_process_continues_before_the_checkpoint_is_written(make_run):
    def prepare(engine):
        engine.barrier = lambda: written.append(sorted(path.name for path in folder.glob("step-*")))

    written = []
    context = make_run("train.total_train_steps=2", prepare=prepare)
    folder = context.directory.checkpoints
    train(context)
    assert written[-1][-1] == "step-00000002"
    other = make_run("train.total_train_steps=2", name="other", prepare=prepare)
    folder = other.directory.checkpoints
    other.engine.process_index = 1
    written.clear()
    with pytest.raises(UserError, match="no checkpoint"):  # process 0, which would write, is missing
        train(other)
    assert written == [[]], "a process that does not write waits all the same"


def test_run_logs_every_step_validates_and_keeps_newest_and_best(make_run, capsys):
    context = make_run()
    train(context)
    assert context.engine.seen == list(range(8))
    assert [line["step"] for line in logged(context)] == list(range(1, 9))
    assert [line["step"] for line in logged(context, "val")] == [3, 6, 8]
    assert store.steps(context.directory.checkpoints) == [3, 6, 8]
    checkpoint = store.load(context.directory.checkpoints)
    assert checkpoint.info["best"]["step"] == 3, "equal scores: the first stays the best"
    assert checkpoint.info["data"]["next_index"] == 8
    assert checkpoint.info["random"] == {"seed": 3, "step": 8}
    assert "checkpoint of step 3" in capsys.readouterr().out


@pytest.mark.parametrize("compiles", [True, False])
def test_a_run_that_compiles_says_so_before_its_first_step(make_run, capsys, compiles):
    """It says how long that may take, and that a request to stop waits for it."""
    said = {}

    def prepare(engine):
        engine.compiles = compiles
        engine.on_step = lambda step: said.setdefault(step, capsys.readouterr().out)

    train(make_run("train.total_train_steps=4", prepare=prepare))
    lines = [line for line in said[0].splitlines() if line.startswith("compiling the first step: ")]
    assert len(lines) == compiles
    assert all("minutes for a large one; a request to stop waits for it" in line for line in lines)
    assert not any("compiling" in said[step] for step in (1, 2))
    capsys.readouterr()
    train(make_run("train.total_train_steps=4"))
    assert "compiling" not in capsys.readouterr().out, "a finished run takes no step"


def test_what_compiles_later_in_a_run_is_announced_once(make_run, capsys):
    """The first validation, and the first step whose switches or batch differ from those before."""
    said = {}

    def prepare(engine):
        engine.compiles = True
        engine.on_step = lambda step: said.setdefault(step, capsys.readouterr().out)

    words = ("loss.use_gamma_schedule=True", "loss.gamma_max_steps=4", "train.total_train_steps=8")
    train(make_run(*words, prepare=prepare))
    assert "compiling the first validation: " in said[3]
    switched = [step for step in said if "which differs from those before" in said[step]]
    assert switched == [5]
    assert "compiling step 6, which differs from those before: seconds" in said[5]
    assert "compiling" not in said[6] + said[7]


def test_score_that_is_not_finite_is_never_the_best(make_run, capsys, caplog):
    def prepare(engine):
        evaluate = engine.evaluate

        def spoilt(batch, *, ema, step):
            found = evaluate(batch, ema=ema, step=step)
            bad = {3: np.nan, 8: np.inf}.get(engine.updates, 0.0)
            return {**found, "reconstruction": found["reconstruction"] + bad}

        engine.evaluate = spoilt

    for end, best in ((3, None), (6, 6), (8, 6)):
        context = make_run(f"train.total_train_steps={end}", prepare=prepare)
        with nullcontext() if best else pytest.raises(UserError, match="no validation"):
            train(context)
        found = store.load(context.directory.checkpoints).info["best"]
        assert (found and found["step"]) == best
    assert "NaN" not in caplog.text + capsys.readouterr().err


def test_tensorboard_has_the_names_of_the_original(make_run):
    context = make_run()
    train(context)
    events = {
        split: EventAccumulator(str(context.directory.path / split)).Reload() for split in ("train", "val")
    }
    losses = ["reconstruction_loss", "kl_div", "average_kl_div", "variational_beta", "nelbo"]
    wanted = {f"Losses/{name}" for name in [*losses, "latent_kl_0", "latent_kl_2"]}
    others = {"Losses/skips_count", "Schedules/learning_rate", "Mean_Max_Updates/Global_norm"}
    assert wanted | others <= set(events["train"].Tags()["scalars"])
    assert wanted | {"Losses/ssim", "EMA_Losses/nelbo"} <= set(events["val"].Tags()["scalars"])
    for found in events.values():
        assert set(found.Tags()["histograms"]) == {
            *("Distributions/target", "Distributions/output"),
            *("OutputLayer/means", "OutputLayer/log_scales"),
        }
        assert {"3/Original_3", "3/Generated_3"} <= set(found.Tags()["images"])


def test_logged_numbers_have_the_documented_units(make_run):
    context = make_run()
    train(context)
    line = logged(context)[-1]
    bits = 1 / (64 * np.log(2))
    assert line["Losses/nelbo"] == pytest.approx(13 * bits)
    assert line["Losses/kl_div"] == pytest.approx(3 * bits)
    dims = np.array([4 * 4 * 4, 4 * 4 * 4, 8 * 8 * 3])
    assert line["Losses/average_kl_div"] == pytest.approx(np.mean(1 / dims) / np.log(2))


def test_validation_weighs_every_picture_once(make_run):
    """20 pictures in batches of 8: the padding of the last batch must not count."""
    context = make_run("val.n_samples_for_validation=20", "train.total_train_steps=3")
    train(context)
    pictures = context.sets.validation
    chosen = np.arange(20) * len(pictures) // 20
    expected = pictures.gather(chosen).astype(float).mean() + 3
    line = logged(context, "val")[0]
    assert line["EMA_Losses/nelbo"] == pytest.approx(expected / (64 * np.log(2)))
    assert line["Losses/nelbo"] == pytest.approx((expected + 1) / (64 * np.log(2)))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_lets_the_step_finish_and_the_same_command_continues(make_run, number):
    before = signal.getsignal(number)
    straight = make_run(name="straight")
    train(straight)
    first = make_run(prepare=interrupt_at(4, number))
    train(first)
    assert first.engine.seen == [0, 1, 2, 3, 4]
    assert store.steps(first.directory.checkpoints)[-1] == 5
    assert signal.getsignal(number) == before
    second = make_run()
    train(second)
    assert second.engine.seen == [5, 6, 7]
    end = [store.load(run.directory.checkpoints).state["model"]["weight"] for run in (straight, second)]
    assert (end[0] == end[1]).all()
    assert [line["step"] for line in logged(second)] == list(range(1, 9))
    seconds = [line["Time/training_seconds"] for line in logged(second)]
    assert seconds == sorted(seconds), "seconds of training go on, too"
    assert seconds[0] > 0


def test_lines_beyond_the_newest_checkpoint_are_cut_on_resume(make_run):
    def die(engine):
        def on_step(index):
            if index == 4:
                raise MemoryError

        engine.on_step = on_step

    with pytest.raises(MemoryError):
        train(make_run(prepare=die))
    context = make_run()
    train(context)
    assert context.engine.seen[0] == 3
    assert [line["step"] for line in logged(context)] == list(range(1, 9))


def test_row_of_skipped_updates_stops_the_run_and_saves_nothing(make_run):
    def prepare(engine):
        engine.bad_steps = set(range(4, 100))

    context = make_run("train.total_train_steps=50", prepare=prepare)
    with pytest.raises(UserError, match=r"step 8: 4 updates in a row were skipped.*learning_rate"):
        train(context)
    assert store.steps(context.directory.checkpoints) == [3, 6]


def test_finished_run_says_so_and_reports_again(make_run, capsys):
    train(make_run())
    capsys.readouterr()
    context = make_run()
    train(context)
    assert context.engine.seen == []
    printed = capsys.readouterr().out
    assert "has trained for its 8 batches" in printed
    assert "299 test pictures: -ELBO" in printed


def test_a_validation_leaves_labelled_sheets_and_the_similarity_of_both_splits(make_run):
    context = make_run("train.total_train_steps=3")
    train(context)
    sheets = sorted(path.name for path in (context.directory.path / "validation-images").glob("*.png"))
    names = ["train-generated", "train-original", "val-generated", "val-original", "val-partial"]
    assert sheets == [f"00000003-{name}.png" for name in [*names, "val-temperatures"]]
    for split in ("train", "val"):
        values = [line.get("Losses/ssim") for line in logged(context, split)]
        assert values == ([None, None] if split == "train" else []) + [pytest.approx(1)]


def test_the_size_is_reported_at_the_start_and_in_the_report(make_run, capsys):
    context = make_run("train.total_train_steps=2")
    train(context)
    first = capsys.readouterr().out.splitlines()[0]
    counts = "3 parameters, 3 latent groups, 2 latent levels, 320 latent values"
    assert first == f"{counts}; weights 24 bytes, average 24 bytes, optimizer 24 bytes"
    report = json.loads((context.directory.path / "report.json").read_text())
    assert report["step"] == 2
    assert report["size"] == {
        "parameters": 3, "latent_groups": 3, "latent_levels": 2, "latent_values": 320,
        "weights_bytes": 24, "average_bytes": 24, "optimizer_bytes": 24,
    }  # fmt: skip


def test_bytes_have_the_largest_suitable_unit():
    size = {
        "parameters": 1_234_567,
        "weights_bytes": 999,
        "average_bytes": 1000,
        "optimizer_bytes": 2_345_678,
    }
    assert size_line(size) == "1,234,567 parameters; weights 999 bytes, average 1.0 kB, optimizer 2.3 MB"


def test_other_runs_checkpoint_continues_where_it_stands(make_run):
    straight = make_run(name="straight")
    train(straight)
    first = make_run("train.total_train_steps=4", name="first")
    train(first)
    second = make_run(name="second")
    train(second, resume_from=first.directory.path)
    assert second.engine.seen == [4, 5, 6, 7]
    end = [store.load(run.directory.checkpoints).state["model"]["weight"] for run in (straight, second)]
    assert (end[0] == end[1]).all()
    again = make_run("train.total_train_steps=9", name="second")
    train(again, resume_from=first.directory.path)
    assert again.engine.seen == [8], "the run is further than the one it began from"


@pytest.mark.parametrize(("made", "message"), [(False, "does not exist"), (True, "holds no checkpoint")])
def test_missing_run_to_resume_from_is_named(make_run, tmp_path, made, message):
    if made:
        (tmp_path / "logs-other").mkdir()
    with pytest.raises(UserError, match=message):
        train(make_run(), resume_from=tmp_path / "logs-other")


def test_resume_from_ema_starts_from_the_averaged_weights(make_run):
    train(make_run("train.total_train_steps=4"))
    saved = store.load(make_run().directory.checkpoints).state
    weights = []

    def prepare(engine):
        engine.on_step = lambda _: weights.append(engine.weight.copy())

    train(make_run("train.resume_from_ema=True", prepare=prepare))
    assert (weights[0] == saved["ema"]["weight"]).all()
    assert not (weights[0] == saved["model"]["weight"]).all()


def test_report_has_baselines_grids_and_distances(make_run, capsys):
    context = make_run()
    train(context)
    report = json.loads((context.directory.path / "report.json").read_text())
    assert abs(report["histogram_baseline"] - 2.33) < 0.05
    assert abs(report["class_mixture_baseline"] - 2.11) < 0.05
    assert report["test_pictures"] == 299
    assert report["nearest_training_distance_of_test_pictures"] > 0.5
    printed = capsys.readouterr().out
    for name in ("samples.png", "reconstructions.png"):
        path = context.directory.path / name
        assert str(path) in printed
        with Image.open(path) as image:
            assert max(image.size) > 200


def test_stabilizer_puts_the_newest_sound_state_back(make_run, capsys):
    """Steps 1, 4 and 8 are examined; from index 5 on, no loss is finite until the state is restored."""
    states = []

    def prepare(engine):
        fetch, load_state = engine.fetch_metrics, engine.state_from_numpy

        def fetched():
            found = fetch()
            return {**found, "loss": float("nan") if engine.in_row else 1.0, "skips_in_row": engine.in_row}

        def loaded(state):
            states.append(float(state["model"]["weight"][0]))
            engine.bad_steps.clear()
            load_state(state)

        engine.fetch_metrics, engine.state_from_numpy = fetched, loaded
        engine.bad_steps = set(range(5, 100))

    words = ("train.stabilizer='nan'", "train.stabilizer_interval=4", "train.logging_interval_in_steps=100",
             "train.total_train_steps=12", "optimizer.max_skips_in_row=5",
             "train.checkpoint_and_eval_interval_in_steps=6")  # fmt: skip
    context = make_run(*words, prepare=prepare)
    train(context)
    kept = store.load(context.directory.checkpoints, 12).state["counters"]
    assert (int(kept["skips"]), int(kept["updates"])) == (3, 4 + 4)
    straight = make_run("train.total_train_steps=4", name="straight")
    train(straight)
    assert states[0] == store.load(straight.directory.checkpoints, 4).state["model"]["weight"][0]
    assert (
        "step 8: the loss is not finite: weights and moments of step 4 are restored"
        in capsys.readouterr().out
    )
    off = make_run(*words[2:], name="off", prepare=prepare)
    with pytest.raises(UserError, match="updates in a row were skipped"):
        train(off)


def test_stabilizer_without_a_sound_state_changes_nothing(make_run):
    def prepare(engine):
        engine.bad_steps = {0, 1}
        engine.fetch_metrics = lambda fetch=engine.fetch_metrics: {
            **fetch(), "loss": float("nan") if engine.in_row else 1.0
        }  # fmt: skip

    context = make_run("train.stabilizer='nan'", "train.stabilizer_interval=2", prepare=prepare)
    train(context)
    assert store.load(context.directory.checkpoints, 8).state["counters"]["updates"] == 6


class TestOfNothingFinite:
    """A run of NaNs has no best validation and no report."""

    @staticmethod
    def broken(engine):
        evaluate = engine.evaluate
        engine.evaluate = lambda *arguments, **options: {
            name: np.full_like(values, np.nan) for name, values in evaluate(*arguments, **options).items()
        }

    def test_it_ends_with_a_line_and_without_a_best_checkpoint(self, make_run, capsys):
        context = make_run("train.total_train_steps=4", prepare=self.broken)
        with pytest.raises(UserError, match="no validation of the run 'tiny' was finite"):
            train(context)
        printed = capsys.readouterr().out
        assert "this is not finite and cannot be the best" in printed
        assert "best validation" not in printed
        assert not (context.directory.path / "report.json").exists()
        assert store.load(context.directory.checkpoints).info["best_step"] is None
        assert logged(context, "val")[-1]["EMA_Losses/nelbo"] is None
        assert logged(context, "val")[-1]["Losses/ssim"] is None

    def test_numbers_of_a_report_that_are_not_finite_are_null_and_named(self, make_run, capsys):
        train(make_run("train.total_train_steps=4"))
        context = make_run("train.total_train_steps=4", prepare=self.broken)
        train(context)
        report = json.loads((context.directory.path / "report.json").read_text(), parse_constant=pytest.fail)
        assert report["negative_elbo"] is None
        assert "so null in" in capsys.readouterr().out

    @pytest.mark.parametrize("averaged", [True, False])
    def test_weights_that_are_not_finite_are_refused(self, make_run, averaged):
        context = make_run("train.total_train_steps=2")
        train(context)
        newest = store.load(context.directory.checkpoints)
        group = "ema" if averaged else "model"
        newest.state[group]["weight"][1] = np.nan
        store.save(context.directory.checkpoints, 2, newest.state, {"best": None}, keep=1)
        chosen = make_run(f"synthesis.load_ema_weights={averaged}")
        with pytest.raises(UserError, match=r"tensor 'weight' of the .* weights is not finite"):
            synthesize(chosen)
        synthesize(make_run(f"synthesis.load_ema_weights={not averaged}"))
