"""Fixtures of more than one file."""

import pytest

from tests.common.web_server import Server


@pytest.fixture
def server():
    server = Server()
    yield server
    server.close()
