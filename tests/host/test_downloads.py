"""Downloads from a server that misbehaves."""

import hashlib

import pytest

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
def test_a_broken_connection_is_continued(server, tmp_path, checksum):
    server.files["x"], server.cut = DATA, 1234
    fetch(f"{server.url}/x", tmp_path / "x", checksum, pause=0)
    assert (tmp_path / "x").read_bytes() == DATA
    assert server.requests == [None, "bytes=1234-"]


def test_a_later_call_continues(server, tmp_path):
    server.files["x"], server.cut = DATA, 1234
    with pytest.raises(UserError, match="run the command again"):
        fetch(f"{server.url}/x", tmp_path / "x", CHECKSUM, attempts=1)
    assert not (tmp_path / "x").exists()
    fetch(f"{server.url}/x", tmp_path / "x", CHECKSUM, attempts=1)
    assert (tmp_path / "x").read_bytes() == DATA
    assert server.requests == [None, "bytes=1234-"]


def test_a_server_without_ranges_sends_everything_again(server, tmp_path):
    server.files["x"], server.cut, server.ranges = DATA, 1234, False
    fetch(f"{server.url}/x", tmp_path / "x", CHECKSUM, pause=0)
    assert (tmp_path / "x").read_bytes() == DATA


def test_a_file_that_changed_meanwhile_is_not_mixed(server, tmp_path):
    server.files["x"], server.cut = DATA[::-1], 1234
    with pytest.raises(UserError, match="run the command again"):
        fetch(f"{server.url}/x", tmp_path / "x", "", attempts=1)
    server.files["x"], server.tag = DATA, '"two"'
    fetch(f"{server.url}/x", tmp_path / "x", "")
    assert (tmp_path / "x").read_bytes() == DATA


def test_without_tag_and_checksum_nothing_is_continued(server, tmp_path):
    server.files["x"], server.cut, server.tag = DATA, 1234, ""
    fetch(f"{server.url}/x", tmp_path / "x", "", pause=0)
    assert (tmp_path / "x").read_bytes() == DATA
    assert server.requests == [None, None]


def test_a_partial_file_that_is_complete_or_too_long_is_dealt_with(server, tmp_path):
    server.files["x"] = DATA
    for partial in (DATA, DATA + b"more"):
        (tmp_path / "x").unlink(missing_ok=True)
        (tmp_path / "x.part").write_bytes(partial)
        fetch(f"{server.url}/x", tmp_path / "x", CHECKSUM, pause=0)
        assert (tmp_path / "x").read_bytes() == DATA


def test_a_corrupt_download_is_refused_and_deleted(server, tmp_path):
    server.files["x"] = DATA[:-1] + b"!"
    with pytest.raises(UserError, match=f"not {CHECKSUM[7:]}; the download was deleted"):
        fetch(f"{server.url}/x", tmp_path / "x", CHECKSUM)
    assert not list(tmp_path.iterdir())


def test_a_wrong_file_that_the_user_put_there_is_refused_and_kept(server, tmp_path):
    (tmp_path / "x").write_bytes(b"mine")
    with pytest.raises(UserError, match="sha256"):
        fetch(f"{server.url}/x", tmp_path / "x", CHECKSUM)
    assert (tmp_path / "x").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("url", "message"),
    [("file:///etc/passwd", "not an http"), ("{}/y", "answers 404"), ("nothing", "not an http")],
)
def test_bad_addresses_are_refused(server, tmp_path, url, message):
    with pytest.raises(UserError, match=message):
        fetch(url.format(server.url), tmp_path / "x", CHECKSUM, attempts=1)
