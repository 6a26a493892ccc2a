"""Only one process at a time uses a run's folder, and a killed one leaves no obstacle."""

import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from dioscuri.checkpoint.directory import RunDirectory
from dioscuri.errors import UserError
from dioscuri.files import check_writable, replacing, replacing_folder

ROOT = Path(__file__).parents[2]
HOLD = """
import sys
from contextlib import suppress
from pathlib import Path
from dioscuri.checkpoint.directory import RunDirectory
with RunDirectory(Path(sys.argv[1])).locked():
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of `tmp_path/logs-x`."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "logs-x")]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.communicate()


def test_second_process_is_refused_and_learns_who_holds_the_run(tmp_path, holder):
    with (
        pytest.raises(UserError, match=f"in use by process {holder.pid}"),
        RunDirectory.of(tmp_path, "x").locked(),
    ):
        pytest.fail("the lock was given twice")


def test_refused_process_leaves_the_lock_of_the_other_alone(tmp_path, holder):
    for _ in range(2):
        with (
            pytest.raises(UserError, match=f"in use by process {holder.pid}"),
            RunDirectory.of(tmp_path, "x").locked(),
        ):
            pytest.fail("the lock was given twice")


def test_a_lock_that_was_looked_at_is_held_all_the_same(tmp_path):
    directory = RunDirectory.of(tmp_path, "x")
    command = [sys.executable, "-c", HOLD, str(directory.path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with directory.locked():
        directory.check_held()
        done = subprocess.run(command, input="", capture_output=True, text=True, env=environment, check=False)
    assert f"in use by process {os.getpid()}" in done.stderr


def test_another_thread_is_refused_and_leaves_the_lock_alone(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path / "logs-x")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with RunDirectory.of(tmp_path, "x").locked():
        with (
            pytest.raises(UserError, match="in use by this process"),
            RunDirectory.of(tmp_path, "x").locked(),
        ):
            pytest.fail("the lock was given twice")
        done = subprocess.run(command, input="", capture_output=True, text=True, env=environment, check=False)
    assert f"in use by process {os.getpid()}" in done.stderr
    with RunDirectory.of(tmp_path, "x").locked():
        pass


@pytest.mark.parametrize("kept", [True, False])
def test_folder_without_content_is_removed_at_the_end(tmp_path, kept):
    folder = tmp_path / "logs-x"
    with suppress(ValueError), RunDirectory(folder).locked():
        if kept:
            (folder / "metrics.jsonl").write_text("")
        raise ValueError
    assert folder.exists() == kept


def test_lock_of_a_removed_folder_is_no_lock(tmp_path, monkeypatch):
    folder = tmp_path / "logs-x"

    def removed_meanwhile(descriptor, operation):
        shutil.rmtree(folder)

    monkeypatch.setattr(fcntl, "lockf", removed_meanwhile)
    with pytest.raises(UserError, match="start again"), RunDirectory.of(tmp_path, "x").locked():
        pytest.fail("another process could lock the folder as well")


def test_lock_of_a_killed_process_is_free(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with RunDirectory.of(tmp_path, "x").locked():
        assert (tmp_path / "logs-x" / "lock").read_text() == f"{os.getpid()}\n"


def test_folder_that_cannot_be_made_is_a_users_error(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match="cannot be written"),
        RunDirectory.of(tmp_path / "file", "x").locked(),
    ):
        pytest.fail("a file has no folders")


def test_file_keeps_its_old_content_when_writing_fails(tmp_path):
    path = tmp_path / "a"
    path.write_text("old")
    with pytest.raises(UserError, match="No space left"), replacing(path) as temporary:
        _fail_half_way(temporary)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_killed_processes_left_is_removed_by_the_next_one_that_writes_there(tmp_path):
    end = ".dioscuri-partial"
    files = [f".a.1{end}", f".b.2{end}", f".live.3{end}", ".download.4.partial", f"d.5{end}", f".user{end}"]
    folders = [f".folder.6{end}", f".live.7{end}"]
    for name in folders:
        (tmp_path / name).mkdir()
    pictures = [f"{name}/picture" for name in folders]
    for name in [*files, *pictures]:
        (tmp_path / name).write_text("half")
    for name in [*files, *pictures, *folders]:
        if name not in (files[2], pictures[1]):  # those of processes that still write
            os.utime(tmp_path / name, (1, 1))
    with replacing(tmp_path / "e") as temporary:
        temporary.write_text("whole")
    left = [*files[2:], folders[1], "e"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(left)


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_takes_the_place_of_an_empty_one_alone_unless_told_otherwise(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    with replacing_folder(folder) as temporary:
        (temporary / "new").touch()
    assert names_in(folder) == ["new"]
    with pytest.raises(UserError, match="it is not empty"), replacing_folder(folder) as temporary:
        (temporary / "newer").touch()
    assert names_in(folder) == ["new"]
    with replacing_folder(folder, overwrite=True) as temporary:
        (temporary / "newer").touch()
    assert names_in(folder) == ["newer"]
    unwritten = pytest.raises(UserError, match="cannot be written")
    with unwritten, replacing_folder(folder, overwrite=True) as temporary:
        temporary.rmdir()  # so that it cannot be renamed
    assert names_in(folder) == ["newer"]
    link = tmp_path / "link"
    link.symlink_to(folder)
    with pytest.raises(UserError, match="it is a link"), replacing_folder(link, overwrite=True):
        pytest.fail("a link to a folder is left alone")
    assert names_in(tmp_path) == ["folder", "link"]


KILLED = """
import os, signal, sys
from pathlib import Path
from dioscuri.files import replacing_folder

def dies(source, target):
    takes_its_place = source.name.endswith("-partial")
    if takes_its_place and sys.argv[2] == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    Path.rename(source, target)
    if takes_its_place:
        os.kill(os.getpid(), signal.SIGKILL)

Path.replace = dies
with replacing_folder(Path(sys.argv[1]), overwrite=True) as temporary:
    (temporary / "new").touch()
"""


@pytest.mark.parametrize(("moment", "left"), [("before", "old"), ("after", "new")])
def test_a_folder_whose_replacement_was_killed_is_whole_for_the_next_process(tmp_path, moment, left):
    """It dies between the two renames, or before it removes the old folder."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "old").touch()
    command = [sys.executable, "-c", KILLED, str(folder), moment]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False)
    assert done.returncode == -signal.SIGKILL
    assert [name for name in names_in(tmp_path) if name.endswith(".old")]
    with replacing(tmp_path / "file") as temporary:
        temporary.touch()
    assert names_in(folder) == [left]
    assert not [name for name in names_in(tmp_path) if name.endswith(".old")]


def put_aside(folder, process):
    """What a process leaves that is killed between the two renames."""
    aside = folder.with_name(f".{folder.name}.{process}.dioscuri-partial.old")
    aside.mkdir()
    (aside / "old").touch()
    return aside


@pytest.fixture
def ended():
    """The number of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return f"{process.pid}-0a1b"


def test_a_folder_that_a_running_process_has_put_aside_is_left_alone(tmp_path):
    aside = put_aside(tmp_path / "folder", os.getpid())
    with replacing(tmp_path / "file") as temporary:
        temporary.touch()
    with replacing_folder(tmp_path / "folder"):
        pass
    assert aside.exists()


def test_a_folder_that_comes_back_is_refused_before_the_work(tmp_path, ended):
    put_aside(tmp_path / "folder", ended)
    with pytest.raises(UserError, match="it is not empty"), replacing_folder(tmp_path / "folder"):
        pytest.fail("the work is done in vain")
    assert names_in(tmp_path) == ["folder"]
    assert names_in(tmp_path / "folder") == ["old"]


def test_a_folder_put_aside_is_gone_when_a_process_writes_there_again(tmp_path, ended):
    folder = tmp_path / "folder"
    with replacing_folder(folder) as temporary:
        (temporary / "new").touch()
    for process in (ended, "0"):
        put_aside(folder, process)
    with replacing_folder(folder, overwrite=True) as temporary:
        (temporary / "newer").touch()
    assert names_in(tmp_path) == ["folder"]
    assert names_in(folder) == ["newer"]


def test_a_folder_put_aside_long_ago_is_not_of_the_process_that_has_its_number_now(tmp_path, monkeypatch):
    put_aside(tmp_path / "folder", os.getpid())
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 4000)
    with replacing(tmp_path / "file") as temporary:
        temporary.touch()
    assert names_in(tmp_path) == ["file", "folder"]


@pytest.mark.parametrize("write", [replacing, replacing_folder])
def test_threads_that_write_the_same_thing_do_not_share_a_temporary_name(tmp_path, write):
    with write(tmp_path / "a") as one, write(tmp_path / "a") as other:
        assert one != other
        for path in (one, other):
            path.touch()
    assert names_in(tmp_path) == ["a"]


def test_a_folder_put_aside_for_one_that_came_too_late_is_gone(tmp_path, monkeypatch):
    folder, rename = tmp_path / "folder", Path.replace
    folder.mkdir()
    (folder / "old").touch()

    def replace(path, target):
        if path.suffix == ".dioscuri-partial":  # now another thread's folder takes the place
            (target / "theirs").mkdir(parents=True)
        return rename(path, target)

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(UserError, match="not empty"), replacing_folder(folder, overwrite=True) as temporary:
        (temporary / "ours").touch()
    assert names_in(tmp_path) == ["folder"]
    assert names_in(folder) == ["theirs"]


def test_folders_in_which_nothing_was_written_are_gone(tmp_path):
    path = tmp_path / "new" / "inner" / "a"
    check_writable(path)
    with pytest.raises(UserError, match="No space left"), replacing(path) as temporary:
        _fail_half_way(temporary)
    with suppress(ZeroDivisionError), replacing_folder(path):
        raise ZeroDivisionError
    assert names_in(tmp_path) == []
    with replacing(path) as temporary:
        temporary.touch()
    assert names_in(path.parent) == ["a"]


@pytest.mark.parametrize("path", [".", "/", ".."])
def test_what_has_no_name_is_no_output(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for write in (replacing, replacing_folder):
        with pytest.raises(UserError, match="cannot be written"), write(Path(path)):
            pytest.fail("there is nothing to replace")


def _fail_half_way(path):
    path.write_text("ne")
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("link", [False, True])
def test_a_pipe_or_device_is_not_replaced(tmp_path, link):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    path = tmp_path / "link" if link else pipe
    if link:
        path.symlink_to(pipe)
    with pytest.raises(UserError, match="it is a device or a pipe"):
        check_writable(path)
    with pytest.raises(UserError, match="it is a device or a pipe"), replacing(path) as temporary:
        temporary.write_text("a")
    assert pipe.is_fifo()
    assert path.is_symlink() == link
