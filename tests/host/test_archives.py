"""Unpacking of archives that may be hostile or damaged."""

import tarfile
import zipfile
from pathlib import PurePosixPath

import pytest

from data_scripts.extract import members, unpack
from dioscuri.errors import UserError
from tests.support.web_server import DATA, tar_of, zip_of


def link(kind, name, target):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def everything(name: PurePosixPath):
    return name


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil", "a\\..\\evil", "C:evil"])
@pytest.mark.parametrize("pack", [tar_of, zip_of])
def test_names_that_lead_out_are_refused(tmp_path, pack, name):
    archive = pack(tmp_path / "archive", [("fine", b"1")])
    assert [str(name) for name, *_ in members(archive)] == ["fine"]
    archive = pack(tmp_path / "archive", [(name, b"1")])
    with pytest.raises(UserError, match="do not trust this archive"):
        unpack(archive, tmp_path / "inner" / "out", everything)
    assert not (tmp_path / "evil").exists()
    assert not (tmp_path / "inner" / "evil").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_are_refused(tmp_path, kind):
    archive = tar_of(tmp_path / "a.tar", [link(kind, "inside", "../outside"), ("inside/evil", b"1")])
    with pytest.raises(UserError, match="link or device"):
        unpack(archive, tmp_path / "out", everything)
    info = zipfile.ZipInfo("inside")
    info.external_attr = 0o120777 << 16
    with pytest.raises(UserError, match="is a link"):
        unpack(zip_of(tmp_path / "a.zip", [(info, b"../outside")]), tmp_path / "out", everything)


def test_damaged_archives_are_named(tmp_path):
    sound = tar_of(tmp_path / "a.tar.gz", [("x", DATA)]).read_bytes()
    (tmp_path / "a.tar.gz").write_bytes(sound[:-1000])
    (tmp_path / "b.zip").write_bytes(b"nothing")
    broken = bytearray(zip_of(tmp_path / "c.zip", [("x", DATA)]).read_bytes())
    broken[100] ^= 255
    (tmp_path / "c.zip").write_bytes(broken)
    for name in ("a.tar.gz", "b.zip", "c.zip"):
        with pytest.raises(UserError, match=name):
            unpack(tmp_path / name, tmp_path / name.partition(".")[0], everything)


def test_members_that_would_overwrite_each_other_are_refused(tmp_path):
    archive = tar_of(tmp_path / "a.tar", [("one/x.png", b"1"), ("two/x.png", b"2")])
    with pytest.raises(UserError, match="another member"):
        unpack(archive, tmp_path / "out", lambda name: PurePosixPath(name.name))
