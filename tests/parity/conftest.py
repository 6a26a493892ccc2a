"""Runs of every family, and the models of both twins that open them."""

from functools import cache
from importlib import import_module

import pytest

from tests.support import faces


def dio(twin):
    return import_module(f"dioscuri.{twin}")


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    return faces.runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="session")
def model(runs):
    """A model of a twin and kind, opened once."""
    return cache(lambda twin, kind: dio(twin).load(runs[kind]))
