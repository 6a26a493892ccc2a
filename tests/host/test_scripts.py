"""The scripts and entering the environment, in a copy of the tree with substitutes for started programs."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dioscuri import environment
from dioscuri.checkpoint.directory import RunDirectory

ROOT = Path(__file__).parents[2]
TWINS = ("torch_impl", "jax_impl")
SHOW = "import os, sys\nprint(os.getcwd(), *sys.argv[1:], sep='|')\n"


@pytest.fixture
def tree(tmp_path):
    """A folder with a space in its name, with the scripts and a `train.py` that prints its arguments."""
    tree = tmp_path / "a tree"
    names = [
        "build/setup_env.sh",
        "build/with_lock.py",
        "build/requirements-cpu.txt",
        "dioscuri/__init__.py",
        "dioscuri/environment.py",
        "dioscuri/errors.py",
        "dioscuri/checkpoint/__init__.py",
        "dioscuri/checkpoint/directory.py",
    ]
    for name in [*names, *(f"{twin}/{script}" for twin in TWINS for script in ("train.sh", "reset.sh"))]:
        target = tree / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text((ROOT / name).read_text())
    for twin in TWINS:
        (tree / twin / "train.py").write_text(SHOW)
    return tree


def run(*command, cwd, **environment):
    removed = ("DIOSCURI_", "GLIBC_TUNABLES")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(removed)}
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=inherited | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.mark.parametrize("twin", TWINS)
def test_train_passes_arguments_on_and_stays_where_the_caller_stands(tree, twin):
    script = Path("..", "a tree", twin, "train.sh")
    result = run("sh", script, "my run.cfg", "run.name=x y", cwd=tree, DIOSCURI_PYTHON=sys.executable)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == f"{tree}|my run.cfg|run.name=x y\n"


@pytest.mark.parametrize("twin", TWINS)
def test_reset_removes_one_run_and_nothing_else(tree, twin):
    for name in ("logs-a", "logs-ab"):
        (tree / twin / name / "checkpoints").mkdir(parents=True)
    result = run("sh", tree / twin / "reset.sh", "a", cwd=tree.parent, DIOSCURI_PYTHON=sys.executable)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert not (tree / twin / "logs-a").exists()
    assert (tree / twin / "logs-ab" / "checkpoints").is_dir()


@pytest.mark.parametrize("arguments", [(), ("",), ("a", "b"), ("a/../ab",), ("..",), ("nothing",)])
def test_reset_refuses_what_is_not_one_run(tree, arguments):
    (tree / "torch_impl" / "logs-ab").mkdir()
    result = run("sh", tree / "torch_impl" / "reset.sh", *arguments, cwd=tree)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert (tree / "torch_impl" / "logs-ab").is_dir()


def test_reset_goes_where_the_runs_are_kept(tree, tmp_path):
    for folder in (tree / "torch_impl", tmp_path / "runs"):
        (folder / "logs-a").mkdir(parents=True)
    places = {"DIOSCURI_RUNS": str(tmp_path / "runs"), "DIOSCURI_PYTHON": sys.executable}
    assert run("sh", tree / "torch_impl" / "reset.sh", "a", cwd=tree, **places).returncode == 0
    assert not (tmp_path / "runs" / "logs-a").exists()
    assert (tree / "torch_impl" / "logs-a").exists()


def test_reset_refuses_a_run_in_which_a_process_works(tree):
    folder = tree / "torch_impl" / "logs-a"
    with RunDirectory(folder).locked():
        result = run("sh", tree / "torch_impl" / "reset.sh", "a", cwd=tree, DIOSCURI_PYTHON=sys.executable)
        assert (result.returncode, result.stderr.count("\n")) == (2, 1)
        assert f"is in use by process {os.getpid()}" in result.stderr
        assert (folder / "lock").exists()


def finished_environment(tree: Path, backend: str) -> Path:
    """The result of a finished setup: an interpreter and a stamp."""
    python = tree / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    requirements = (tree / f"build/requirements-{backend}.txt").read_bytes()
    checksum = subprocess.run(["cksum"], input=requirements, capture_output=True, check=True).stdout.decode()
    (tree / ".venv" / "dioscuri.stamp").write_text(f"{backend}\n{tree}\n{checksum}")
    return python


def test_finished_environment_is_used_as_it_is(tree):
    python = finished_environment(tree, "cpu")
    result = run("sh", tree / "build" / "setup_env.sh", "--print-python", cwd="/")
    assert (result.returncode, result.stdout, result.stderr) == (0, f"{python}\n", "")


@pytest.mark.parametrize("damage", ["no stamp", "other pins", "other place", "other backend"])
def test_unfinished_or_stale_environment_is_made_again(tree, damage):
    python = finished_environment(tree, "cpu")
    stamp = tree / ".venv" / "dioscuri.stamp"
    if damage == "no stamp":
        stamp.unlink()
    elif damage == "other pins":
        (tree / "build" / "requirements-cpu.txt").write_text("numpy==1.0\n")
    elif damage == "other place":
        stamp.write_text(stamp.read_text().replace(str(tree), "/elsewhere"))
    else:
        (tree / "build" / "requirements-tpu.txt").write_text("numpy==1.0\n")
    backend = ["tpu"] if damage == "other backend" else []
    # A substitute for Python 3.11: passes the check of `find_python`, runs the lock, makes no environment.
    stand_in = tree / "python"
    stand_in.write_text(f'#!/bin/sh\ncase $1 in -m) exit 7 ;; esac\nexec "{sys.executable}" "$@"\n')
    stand_in.chmod(0o755)
    result = run("sh", tree / "build" / "setup_env.sh", *backend, cwd=tree, PYTHON=str(stand_in))
    assert result.returncode == 7
    assert "making" in result.stderr
    assert not python.exists()


def test_unknown_backend_is_refused(tree):
    result = run("sh", tree / "build" / "setup_env.sh", "gpu", cwd=tree)
    assert result.returncode == 2
    assert "gpu" in result.stderr


def test_script_without_packages_continues_in_the_environment(tree):
    script = tree / "script.py"
    script.write_text(
        "from dioscuri.environment import enter_environment\nenter_environment()\n"
        "import einops, sys\nprint(sys.flags.no_site, *sys.argv[1:], sep='|')\n"
    )
    result = run(sys.executable, "-S", script, "a b", cwd=tree, DIOSCURI_PYTHON=sys.executable)
    assert (result.returncode, result.stdout) == (0, "0|a b\n"), result.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have another allocator")
@pytest.mark.parametrize("own", [None, "glibc.malloc.check=0"])
def test_script_asks_for_large_pages_unless_the_user_has_set_the_allocator(tree, own):
    script = tree / "script.py"
    script.write_text(
        "from dioscuri.environment import enter_environment\nenter_environment()\n"
        "import os, sys\nprint(os.environ['GLIBC_TUNABLES'], sys.flags.utf8_mode, *sys.argv[1:], sep='|')\n"
    )
    given = {} if own is None else {"GLIBC_TUNABLES": own}
    result = run(sys.executable, "-X", "utf8", script, "a b", cwd=tree, **given)
    expected = own or "glibc.malloc.hugetlb=1"
    assert (result.returncode, result.stdout) == (0, f"{expected}|1|a b\n"), result.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have another allocator")
@pytest.mark.parametrize(
    ("tunables", "kept"), [("glibc.malloc.hugetlb=1", True), ("glibc.malloc.check=0", False)]
)
def test_freed_memory_is_kept_unless_the_user_has_set_the_allocator(tmp_path, tunables, kept):
    script = tmp_path / "script.py"
    script.write_text(
        "from dioscuri.environment import keep_freed_memory\n"
        "from dioscuri.plans.footprint import resident_bytes\n"
        "keep_freed_memory()\nbefore = resident_bytes()\n"
        "array = bytearray(b'x') * 2**27\ndel array\nprint(resident_bytes() - before > 2**26)\n"
    )
    result = run(sys.executable, script, cwd=tmp_path, GLIBC_TUNABLES=tunables, PYTHONPATH=str(ROOT))
    assert (result.returncode, result.stdout) == (0, f"{kept}\n"), result.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have another allocator")
def test_freed_memory_that_was_kept_goes_back_when_asked(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from dioscuri.environment import give_back_freed_memory, keep_freed_memory\n"
        "from dioscuri.plans.footprint import resident_bytes\n"
        "keep_freed_memory()\nbefore = resident_bytes()\n"
        "array = bytearray(b'x') * 2**27\nlater = bytearray(100)\ndel array\ngive_back_freed_memory()\n"
        "print(resident_bytes() - before < 2**26)\n"
    )
    tunables = "glibc.malloc.hugetlb=1"
    result = run(sys.executable, script, cwd=tmp_path, GLIBC_TUNABLES=tunables, PYTHONPATH=str(ROOT))
    assert (result.returncode, result.stdout) == (0, "True\n"), result.stderr


def test_a_system_that_cannot_give_back_memory_goes_on(monkeypatch):
    loaded = []

    def load(name):
        loaded.append(name)
        return object()  # a C library without malloc_trim

    monkeypatch.setattr(environment, "CDLL", load)
    for system, expected in (("linux", [None]), ("win32", [])):
        monkeypatch.setattr(environment.sys, "platform", system)
        environment.give_back_freed_memory()
        assert loaded == expected
        loaded.clear()


def test_what_comes_from_standard_input_is_not_started_again(tree):
    script = tree / "script.py"
    script.write_text(
        "from dioscuri.environment import enter_environment\nenter_environment()\nprint('here')\n"
    )
    result = run("sh", "-c", '"$0" - <"$1"', sys.executable, script, cwd=tree)
    assert (result.returncode, result.stdout) == (0, "here\n"), result.stderr


def test_lock_ends_with_its_holder(tree):
    lock = [sys.executable, str(tree / "build" / "with_lock.py"), str(tree / "lock")]
    with subprocess.Popen([*lock, "sh", "-c", "echo held; sleep 600"], stdout=subprocess.PIPE, text=True,
                          start_new_session=True) as holder:  # fmt: skip
        assert holder.stdout.readline() == "held\n"
        waiting = subprocess.Popen(
            [*lock, "echo", "mine"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert "waiting" in waiting.stderr.readline()
        time.sleep(0.2)
        assert waiting.poll() is None
        os.killpg(holder.pid, signal.SIGKILL)
        assert waiting.communicate(timeout=300)[0] == "mine\n"
