"""`train` runs what `train.sh` runs, in this process, and returns the best model."""

from importlib import import_module

import numpy as np
import pytest

from dioscuri import UserError
from dioscuri.checkpoint import store
from tests.support import tiny


@pytest.mark.parametrize("twin", ["torch", "jax"])
def test_a_run_is_trained_and_its_best_model_returned(tmp_path, twin, capsys):
    dio, cfg, seen = import_module(f"dioscuri.{twin}"), tiny.write_tiny(tmp_path), []
    model = dio.train(
        cfg,
        callback=lambda step, metrics: seen.append((step, metrics["loss"])),
        run__root=str(tmp_path),
        run__name="mine",
        total_train_steps=4,
        checkpoint_and_eval_interval_in_steps=2,
        report_baselines=False,
        n_samples_for_validation=8,
    )
    assert [step for step, _ in seen] == [1, 2, 3, 4]
    assert np.isfinite([loss for _, loss in seen]).all()
    folder = tmp_path / "logs-mine" / "checkpoints"
    best = store.load(folder, "best")
    assert best.step in (2, 4)
    for name, array in model._network.weights().items():
        np.testing.assert_array_equal(array, best.state["ema"][name])
    assert model.generate(2).shape == (2, 8, 8, 1)
    capsys.readouterr()
    dio.train(cfg, run__root=str(tmp_path), run__name="mine")
    assert "this run has trained for its 4 batches" in capsys.readouterr().out


def test_an_empty_list_that_can_be_called_is_a_callback(tmp_path):
    class Steps(list):
        def __call__(self, step, _metrics):
            self.append(step)

    cfg, steps = tiny.write_tiny(tmp_path), Steps()
    import_module("dioscuri.torch").train(cfg, callback=steps, run__root=str(tmp_path), total_train_steps=1)
    assert steps == [1]


@pytest.mark.parametrize("twin", ["torch", "jax"])
def test_train_is_refused_in_its_own_callback(tmp_path, twin):
    dio, cfg = import_module(f"dioscuri.{twin}"), tiny.write_tiny(tmp_path)
    options = {"run__root": str(tmp_path), "total_train_steps": 1}
    refused = []

    def callback(step, metrics):
        with pytest.raises(UserError, match="train was called from the callback of another train") as error:
            dio.train(cfg, run__name="inner", **options)
        refused.append(error)
        raise ZeroDivisionError

    for _ in range(2):  # the mark is taken off
        with pytest.raises(ZeroDivisionError):
            dio.train(cfg, callback=callback, run__name="outer", **options)
    assert len(refused) == 2
    assert not (tmp_path / "logs-inner").exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            {"learning_rat": 1.0},
            r"train: option 'learning_rat' is unknown \(did you mean 'learning_rate'\?\)",
        ),
        ({"learning_rate": "fast"}, r"^train: \[optimizer\] learning_rate must be a number, not 'fast'"),
        ({"batch_size": 3}, "write .*train__batch_size or val__batch_size"),
        ({"target_res": 9}, r"\[data\]|\[model\]"),
    ],
)
def test_wrong_overrides_are_one_line_and_leave_nothing(tmp_path, options, says):
    from dioscuri import torch as dio

    cfg = tiny.write_tiny(tmp_path)
    with pytest.raises(UserError, match=r"train takes a \.cfg file, not None"):
        dio.train(None)
    with pytest.raises(UserError, match="callback must be a function of step and metrics, not an int"):
        dio.train(cfg, callback=3, run__root=str(tmp_path))
    with pytest.raises(UserError, match=says) as refused:
        dio.train(cfg, run__root=str(tmp_path), **options)
    assert "\n" not in str(refused.value)
    assert list(tmp_path.iterdir()) == [cfg]


def test_a_missing_configuration_is_one_line():
    from dioscuri import torch as dio

    with pytest.raises(UserError, match=r"configuration none\.cfg does not exist"):
        dio.train("none.cfg")
