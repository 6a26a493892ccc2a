"""Fixtures shared by several files."""

import pytest

from dioscuri.checkpoint.directory import RunDirectory
from dioscuri.context import Context
from dioscuri.data import open_datasets
from dioscuri.data.classes import read_classes
from dioscuri.hparams import load
from tests.support.fake_engine import FakeEngine
from tests.support.tiny import write_tiny
from tests.support.web_server import Server


@pytest.fixture
def server():
    server = Server()
    yield server
    server.close()


@pytest.fixture
def make_run(tmp_path):
    """Make the context of a run in `tmp_path/logs-<name>`, with a new engine."""

    def make(*overrides, name="tiny", prepare=lambda _: None):
        hparams = load(write_tiny(tmp_path), [f"run.name={name}", *overrides])
        engine = FakeEngine(hparams)
        prepare(engine)
        directory = RunDirectory.of(tmp_path, name)
        directory.path.mkdir(exist_ok=True)
        sets = open_datasets(hparams, read_classes(directory.path))
        return Context(hparams, directory, sets, engine)

    return make
