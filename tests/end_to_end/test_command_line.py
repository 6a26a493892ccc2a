"""`dioscuri` in a shell: help, nearest names, exit codes, and no traceback in any environment."""

import os
import signal
import subprocess
import sys

import pytest

from dioscuri.cli.main import COMMANDS, command_parser
from tests.support.tiny import write_tiny
from tests.support.twins import FAKE, ROOT, start

DESCRIBE = ["describe", "egs/vqgan/digits.cfg", "--quick"]
"""A command that loads no framework."""

SECONDS = 300


def dioscuri(*words, cwd, shell="", **environment):
    """Run the command; `shell` is a script with "$@" in its place."""
    command = [sys.executable, "-m", "dioscuri", *map(str, words)]
    return subprocess.run(
        ["sh", "-c", shell or '"$@"', "sh", *command],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
    )


def assert_one_line(done, message):
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_page_of_help_with_an_example(command):
    page = command_parser(command).format_help()
    assert page.startswith(f"usage: dioscuri {command}")
    assert f"example:\n  {'eval' if command == 'completion' else f'dioscuri {command} '}" in page
    assert max(map(len, page.splitlines())) <= 115


@pytest.mark.parametrize("words", [[], ["--help"], ["help"]])
def test_the_program_lists_its_commands(tmp_path, words):
    done = dioscuri(*words, cwd=tmp_path)
    assert done.returncode == 0
    assert all(f"\n  {name} " in done.stdout for name in COMMANDS)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian"], "unknown command 'trian' (did you mean 'train'?)"),
        (["--versoin"], "unknown option '--versoin' (did you mean '--version'?)"),
        (["train", "--resume"], "unrecognized arguments: --resume (did you mean '--resume-from'?)"),
        (["train", "--twin", "tensorflow"], "invalid choice: 'tensorflow'"),
        (["train", "a.cfg", "b.cfg"], "more than one configuration: a.cfg, b.cfg; usage: dioscuri train"),
        (["train", "seed=3"], "'seed=3' is not section.option=value"),
        (["train", "nothing.cfg"], "configuration nothing.cfg does not exist"),
        (["synthesize", "run.name=none"], "there is no run 'none'"),
        (["describe", "egs/vqgan/digits.cfg", "run.sead=3"], "did you mean 'seed'"),
        (["evaluate", "only"], "the following arguments are required: REFERENCE; usage: dioscuri evaluate"),
        (
            ["compress", "a", "b", "c.dio/"],
            "OUT.dio: 'c.dio/' is the name of a folder: give that",
        ),
        (["convert", "nowhere"], "give --run, --to-cfg, --to-folder or --to-torch"),
        (["sweep", "nowhere.sweep"], "configuration nowhere.sweep does not exist"),
        (["completion", "fish"], "invalid choice: 'fish'"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line_with_what_to_do(tmp_path, words, message):
    done = dioscuri(*words, cwd=tmp_path, DIOSCURI_RUNS=str(tmp_path / "runs"))
    assert_one_line(done, message)
    assert not list(tmp_path.iterdir())


def test_a_reader_that_leaves_ends_the_command_quietly(tmp_path):
    for reader in ("head -1", "true"):
        done = dioscuri(*DESCRIBE, cwd=tmp_path, shell=f'{{ "$@"; echo $? >&3; }} 3>code | {reader}')
        assert done.stderr == ""
        assert (tmp_path / "code").read_text().strip() in ("0", str(128 + signal.SIGPIPE))
    done = dioscuri("nothing", cwd=tmp_path, shell='{ "$@" 2>&1; echo $? >&3; } 3>code | true')
    assert (done.stderr, (tmp_path / "code").read_text()) == ("", "2\n")


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_closed_streams_lead_nowhere(tmp_path, closed):
    words = (
        DESCRIBE[:2] if closed.startswith("<&- ") else DESCRIBE
    )  # with all of them closed, PyTorch is loaded
    done = dioscuri(*words, cwd=tmp_path, shell=f'"$@" {closed}')
    assert (done.returncode, done.stderr) == (0, "")
    assert ("vqgan_digits" in done.stdout) == (">&-" not in closed.replace("2>&-", ""))
    assert dioscuri("nothing", cwd=tmp_path, shell=f'"$@" {closed}').returncode == 2


def test_a_disk_that_takes_nothing_is_one_line(tmp_path):
    done = dioscuri(*DESCRIBE, cwd=tmp_path, shell='"$@" >/dev/full')
    assert_one_line(done, "the output cannot be written: No space left on device")


def test_a_removed_working_directory_is_one_line(tmp_path):
    done = dioscuri(*DESCRIBE, cwd=tmp_path, shell='mkdir gone && cd gone && rmdir ../gone && "$@"')
    assert_one_line(done, "the working directory was removed: change to a folder that exists")


@pytest.mark.parametrize("locale", [{}, {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}])
def test_names_that_the_locale_cannot_write_are_no_obstacle(tmp_path, locale):
    (tmp_path / "ü").mkdir()
    cfg = write_tiny(tmp_path / "ü")
    environment = {"LC_ALL": "C", **locale}
    words = ("describe", "--quick")
    assert dioscuri(*words, cfg, "data.dataset_path=é", cwd=tmp_path, **environment).returncode == 0
    assert_one_line(dioscuri(*words, "ö.cfg", cwd=tmp_path, **environment), "does not exist")
    broken = os.fsdecode(b"bad\xff.cfg")
    (tmp_path / broken).write_text(cfg.read_text())
    assert dioscuri(*words, broken, "data.dataset_path=" + broken, cwd=tmp_path).returncode == 0


def test_a_run_whose_name_the_locale_cannot_write(tmp_path, monkeypatch):
    monkeypatch.setenv("LC_ALL", "C")
    cfg = write_tiny(tmp_path)
    name = "größe"
    process = start(tmp_path, FAKE, cfg, f"run.name={name}", "train.total_train_steps=2")
    _, errors = process.communicate(timeout=SECONDS)
    assert (process.returncode, errors) == (0, "")
    copy = tmp_path / f"logs-{name}" / f"hparams-{name}.cfg"
    assert f"name = {name}" in copy.read_text(encoding="utf-8")
    ascii_only = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = dioscuri("train", cfg, f"run.name={name}", cwd=tmp_path, DIOSCURI_RUNS=str(tmp_path), **ascii_only)
    assert_one_line(done, "is not text in the encoding of this shell: set LC_ALL=C.UTF-8")


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"WORLD_SIZE": "two"}, "environment variable WORLD_SIZE is 'two', not a whole number"),
        ({"WORLD_SIZE": "2", "RANK": "abc"}, "environment variable RANK is 'abc', not a whole number"),
    ],
)
def test_variables_of_a_job_that_hold_no_number_are_one_line(tmp_path, variables, message):
    cfg = write_tiny(tmp_path)
    assert_one_line(dioscuri("train", cfg, f"run.root={tmp_path}", cwd=tmp_path, **variables), message)
    assert list(tmp_path.iterdir()) == [cfg]


@pytest.mark.parametrize("name", ["RANK", "SLURM_PROCID", "JAX_PROCESS_ID"])
def test_a_run_of_one_process_is_locked_whatever_its_environment_says(tmp_path, monkeypatch, name):
    monkeypatch.setenv(name, "3")
    words = (write_tiny(tmp_path), "train.total_train_steps=2")
    process = start(tmp_path, FAKE, *words)
    _, errors = process.communicate(timeout=SECONDS)
    assert (process.returncode, errors) == (0, "")
    assert "tiny" in (tmp_path / "logs-tiny" / "hparams-tiny.cfg").read_text()
    assert (tmp_path / "logs-tiny" / "lock").read_text().strip() == str(process.pid)


def test_completion_offers_commands_and_options(tmp_path):
    script = dioscuri("completion", "bash", cwd=tmp_path).stdout
    assert dioscuri("completion", "zsh", cwd=tmp_path).stdout.endswith(script)
    for words, offered in (
        (["syn"], ["synthesize"]),
        (["train", "--"], ["--help", "--twin", "--resume-from"]),
        (["train", "egs"], []),
    ):
        line = " ".join(["dioscuri", *words])
        code = f'{script}\nCOMP_WORDS=({line}); COMP_CWORD={len(words)}; _dioscuri; echo "${{COMPREPLY[@]}}"'
        done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.split() == offered
