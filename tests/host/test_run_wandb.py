"""`run.wandb` with a substitute for the package, which is optional and needs an account."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from dioscuri.errors import UserError
from dioscuri.run.logs import WandB, check_wandb


class Recorder:
    """A substitute for the package and for the run that it starts."""

    def __init__(self):
        self.started, self.logged, self.finished = {}, [], False
        self.Histogram = self.Image = SimpleNamespace

    def init(self, **arguments):
        self.started = arguments
        return self

    def log(self, values, *, step):
        self.logged.append((step, values))

    def finish(self):
        self.finished = True


def test_scalars_go_out_under_split_and_tag(monkeypatch, tmp_path):
    recorder = Recorder()
    monkeypatch.setitem(sys.modules, "wandb", recorder)
    sink = WandB("project", "name", {"run": {"seed": 1}}, tmp_path)
    sink.scalars("val", 7, {"Losses/nelbo": 1.5})
    sink.close()
    assert recorder.started["project"] == "project"
    assert recorder.started["id"] == "name"  # the same run continues after a restart
    assert recorder.started["resume"] == "allow"
    assert recorder.logged == [(7, {"val/Losses/nelbo": 1.5})]
    assert recorder.finished


def test_missing_package_is_a_users_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"run\.wandb=False"):
        check_wandb()


def test_pictures_and_histograms_are_wrapped(monkeypatch, tmp_path):
    recorder = Recorder()
    recorder.Image, recorder.Histogram = np.shape, len
    monkeypatch.setitem(sys.modules, "wandb", recorder)
    sink = WandB("project", "name", {}, tmp_path)
    sink.images("train", 1, {"samples": np.zeros((4, 6, 3), np.uint8)})
    sink.histograms("train", 1, {"means": np.zeros((2, 5))})
    assert recorder.logged == [(1, {"train/samples": (4, 6, 3)}), (1, {"train/means": 10})]
