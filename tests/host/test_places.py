"""Where runs are written: the twin's folder in a clone, or the folder that the user names."""

import shutil
from pathlib import Path

import pytest

from dioscuri.cli.runs import synthesize_command, train_command
from dioscuri.errors import UserError, run_command
from dioscuri.hparams import load
from dioscuri.hparams.archive import GivenOptions, copy_path
from dioscuri.places import Places, cache_folder, configuration, examples, here
from dioscuri.run.sweep.table import open_table
from dioscuri.twins import Twin
from tests.support.fake_engine import FakeEngine
from tests.support.tiny import write_tiny

TWIN = Twin("fake", FakeEngine, FakeEngine)
SHORT = "train.total_train_steps=2"


@pytest.fixture
def home(tmp_path):
    """A read-only twin's folder."""
    home = tmp_path / "twin"
    home.mkdir(mode=0o500)
    yield home
    home.chmod(0o700)
    assert not list(home.iterdir())


@pytest.mark.parametrize("how", ["option", "variable"])
def test_a_checkout_that_takes_nothing_trains_where_the_user_says(tmp_path, home, monkeypatch, how):
    runs, words = tmp_path / "my runs", [str(write_tiny(tmp_path)), SHORT]
    if how == "option":
        words.append(f"run.root={runs}")
    else:
        monkeypatch.setenv("DIOSCURI_RUNS", str(runs))
    train_command(TWIN, home, words)
    synthesize_command(TWIN, home, words)
    assert (runs / "logs-tiny" / "report.json").is_file()
    assert any((runs / "logs-tiny" / "synthesis-images").iterdir())


def test_a_run_that_moved_continues_where_it_is(tmp_path, home, capsys):
    cfg = write_tiny(tmp_path)
    train_command(TWIN, home, [str(cfg), SHORT, f"run.root={tmp_path / 'a'}"])
    shutil.move(tmp_path / "a", tmp_path / "b")
    train_command(TWIN, home, [str(cfg), "train.total_train_steps=3", f"run.root={tmp_path / 'b'}"])
    assert "continuing from" in capsys.readouterr().out
    assert not (tmp_path / "a").exists()
    assert "root =" not in copy_path(tmp_path / "b", "tiny").read_text()


def test_paths_of_a_cfg_start_from_the_twin_but_runs_where_runs_are(tmp_path, monkeypatch):
    cfg = examples() / "maskgit/mnist10k.cfg"
    clone = load(cfg, twin=tmp_path / "torch_impl")
    assert clone.data.tokenizer_path == str(tmp_path / "torch_impl" / "logs-vqgan_mnist10k")
    monkeypatch.setenv("DIOSCURI_RUNS", str(tmp_path / "runs"))
    elsewhere = load(cfg, twin=tmp_path / "torch_impl")
    assert elsewhere.data.tokenizer_path == str(tmp_path / "runs" / "logs-vqgan_mnist10k")
    assert elsewhere.data.dataset_path == clone.data.dataset_path == str(tmp_path / "datasets")
    named = load(cfg, ["data.tokenizer_path=logs-x"], twin=tmp_path / "torch_impl", cwd=tmp_path)
    assert named.data.tokenizer_path == str(tmp_path / "logs-x"), "a word starts from where the caller stands"


def test_an_installed_package_works_in_the_working_directory(tmp_path):
    places = Places(tmp_path / "site-packages", tmp_path / "work")
    assert places.home("torch") == places.home("jax") == places.results() == tmp_path / "work"
    assert here().home("jax") == Path(__file__).parents[2] / "jax_impl"


def test_runs_of_both_twins_that_share_a_folder_have_names_of_their_own(tmp_path):
    write_tiny(tmp_path)
    table = tmp_path / "both.sweep"
    table.write_text(
        "[sweep]\nname = x\nbase = ['tiny.cfg']\ntwin = ['torch', 'jax']\n[run]\nseed = [1, 2]\n"
    )
    shared = open_table(table, [], Places(tmp_path, tmp_path)).runs
    assert [run.name for run in shared] == [f"x-{twin}-seed{n}" for twin in ("torch", "jax") for n in (1, 2)]
    assert len({run.name for run in open_table(table, [], Places(tmp_path)).runs}) == 2
    with pytest.raises(UserError, match="two runs would be called"):
        open_table(table, [f"run.root='{tmp_path}'"], Places(tmp_path))


def test_a_shipped_configuration_is_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found, note = configuration(Path("egs/vqgan/digits.cfg"))
    assert found == examples() / "vqgan" / "digits.cfg"
    assert note == f"configuration egs/vqgan/digits.cfg: the one shipped with Dioscuri, {found}"
    Path("egs/vqgan").mkdir(parents=True)
    Path("egs/vqgan/digits.cfg").write_text("")
    assert configuration(Path("egs/vqgan/digits.cfg")) == (Path("egs/vqgan/digits.cfg"), "")
    assert configuration(Path("mine.cfg")) == (Path("mine.cfg"), "")
    for name in ("egs/../pyproject.toml", "egs", "nothing.cfg"):
        assert configuration(Path(name)) == (Path(name), "")


def test_the_cache_is_the_users(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    monkeypatch.delenv("DIOSCURI_CACHE", raising=False)
    assert cache_folder() == Path("/x/dioscuri")
    monkeypatch.setenv("DIOSCURI_CACHE", "/y")
    assert cache_folder() == Path("/y")


def test_a_folder_that_takes_nothing_is_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DIOSCURI_RUNS", str(tmp_path / "file"))
    with pytest.raises(SystemExit):
        run_command(lambda words: train_command(TWIN, tmp_path, words), [str(write_tiny(tmp_path)), SHORT])
    errors = capsys.readouterr().err
    assert "file/logs-tiny cannot be written" in errors
    assert errors.count("\n") == 1


def test_a_run_elsewhere_is_opened_with_its_data_whoever_opens_it(tmp_path):
    """Its copy holds absolute paths; those of runs next to it move with them."""
    home, runs = tmp_path / "clone" / "torch_impl", tmp_path / "runs"
    words = ["data.train_data_path=['a', 'b']"]
    given = GivenOptions.read(examples() / "maskgit/mnist10k.cfg", words, home=home, runs=runs, cwd=tmp_path)
    given.resolve().save()
    copy = copy_path(runs, "maskgit_mnist10k")
    for opened in (load(copy, twin=runs), load(copy, twin=home, cwd=tmp_path / "x")):
        assert opened.data.dataset_path == str(tmp_path / "clone" / "datasets")
        assert opened.data.train_data_path == (str(tmp_path / "a"), str(tmp_path / "b"))
    assert load(copy, twin=runs).data.tokenizer_path == str(runs / "logs-vqgan_mnist10k")
    assert "tokenizer_path = 'logs-vqgan_mnist10k'" in copy.read_text()
    assert all("overrides" not in line for line in given.resolve().messages)
