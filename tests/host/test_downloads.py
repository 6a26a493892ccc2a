"""Downloads from a server that misbehaves."""

import hashlib
from types import SimpleNamespace

import pytest

from dioscuri import download
from dioscuri.download import fetch
from dioscuri.errors import UserError
from tests.support.web_server import DATA

CHECKSUM = "sha256:" + hashlib.sha256(DATA).hexdigest()


def test_a_download_is_checked_and_leaves_nothing_else(server, tmp_path):
    server.files["x"] = DATA
    assert fetch(f"{server.url}/x", tmp_path / "in" / "x", CHECKSUM).read_bytes() == DATA
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["x"]
    fetch(f"{server.url}/x", tmp_path / "in" / "x", CHECKSUM)
    assert len(server.requests) == 1, "a sound file was fetched again"


@pytest.mark.parametrize("checksum", [CHECKSUM, ""])
def test_a_broken_connection_begins_again(server, tmp_path, checksum):
    server.files["x"], server.cut = DATA, 1234
    fetch(f"{server.url}/x", tmp_path / "x", checksum, pause=0)
    assert (tmp_path / "x").read_bytes() == DATA
    assert len(server.requests) == 2


def test_a_connection_that_keeps_breaking_leaves_nothing(server, tmp_path):
    server.files["x"], server.cut = DATA, 1234
    with pytest.raises(UserError, match=r"1234 .*; run the command again") as caught:
        fetch(f"{server.url}/x", tmp_path / "x", CHECKSUM, attempts=1)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
    fetch(f"{server.url}/x", tmp_path / "x", CHECKSUM, attempts=1)
    assert (tmp_path / "x").read_bytes() == DATA


def test_a_server_that_never_stops_sending_is_left(server, tmp_path):
    server.endless = True
    with pytest.raises(UserError, match="the file is larger than 100,000 bytes"):
        fetch(f"{server.url}/x", tmp_path / "x", "", max_bytes=100_000)
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_announced_too_large_is_not_begun(server, tmp_path):
    server.files["x"] = DATA
    with pytest.raises(UserError, match="the file is larger than 4,999 bytes"):
        fetch(f"{server.url}/x", tmp_path / "x", CHECKSUM, max_bytes=len(DATA) - 1)


def test_a_server_that_drips_is_left(server, tmp_path, monkeypatch):
    server.endless = True
    clock = iter(range(0, 10**6, 100))
    monkeypatch.setattr(download, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    monkeypatch.setattr(download, "_SLOWEST", 1e9)
    with pytest.raises(UserError, match=r"the server sent .* bytes in 100 seconds; run the command again"):
        fetch(f"{server.url}/x", tmp_path / "x", "", attempts=1)


def test_a_disk_without_room_is_reported(server, tmp_path, monkeypatch):
    server.files["x"] = DATA
    monkeypatch.setattr(download, "_RESERVE", 1 << 60)
    with pytest.raises(UserError, match=r"bytes are free in .*: make room for 5,000"):
        fetch(f"{server.url}/x", tmp_path / "x", CHECKSUM)


def test_a_corrupt_download_is_refused_and_deleted(server, tmp_path):
    server.files["x"] = DATA[:-1] + b"!"
    with pytest.raises(UserError, match=rf"expected {CHECKSUM} but got .* Deleted download"):
        fetch(f"{server.url}/x", tmp_path / "x", CHECKSUM)
    assert not list(tmp_path.iterdir())


def test_a_broken_file_is_fetched_again_and_set_aside(server, tmp_path, capsys):
    server.files["x"] = DATA
    (tmp_path / "x").write_bytes(b"mine")
    assert fetch(f"{server.url}/x", tmp_path / "x", CHECKSUM).read_bytes() == DATA
    assert (tmp_path / "x.broken").read_bytes() == b"mine"
    assert "its sha256 is" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("url", "message"),
    [("file:///etc/passwd", "not an http"), ("{}/y", "answered 404"), ("nothing", "not an http")],
)
def test_bad_addresses_are_refused(server, tmp_path, url, message):
    with pytest.raises(UserError, match=message):
        fetch(url.format(server.url), tmp_path / "x", CHECKSUM, attempts=1)
