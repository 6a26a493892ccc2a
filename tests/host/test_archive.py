"""A run's copy of its options: which source decides, the messages, and what is written."""

import json
import stat
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from dioscuri.cli.runs import synthesize_command, train_command
from dioscuri.errors import UserError
from dioscuri.families.hierarchical_vae.plan import make_plan
from dioscuri.hparams import GivenOptions, load, loading, to_json
from dioscuri.hparams.archive import copy_path
from dioscuri.run import start as starting
from dioscuri.twins import Twin
from tests.support.fake_engine import FakeEngine
from tests.support.tiny import TINY, write_tiny

EGS = Path(__file__).parents[2] / "egs"


@pytest.fixture
def cfg(tmp_path):
    return write_tiny(tmp_path)


@pytest.fixture
def root(tmp_path):
    """The twin's folder."""
    (tmp_path / "twin").mkdir()
    return tmp_path / "twin"


def settle(cfg, words, runs, **options):
    """Resolve and save, like a successful start."""
    settled = GivenOptions.read(cfg, words, runs=runs, **{"home": runs, **options}).resolve()
    settled.save()
    return settled.hparams, settled.messages


def refused(*arguments):
    with pytest.raises(UserError) as caught:
        settle(*arguments)
    assert str(caught.value).isprintable()
    return str(caught.value)


def test_the_first_start_writes_the_copy_with_its_comments(tmp_path, root):
    cfg = tmp_path / "x.cfg"
    cfg.write_text(TINY.replace("seed = 3", "# chosen by dice\nseed   :  3").replace("[2, 2]", "[2,\n  2]"))
    options, messages = settle(cfg, [], root)
    copy = root / "logs-tiny" / "hparams-tiny.cfg"
    assert copy == copy_path(root, "tiny")
    assert messages == []
    assert "# chosen by dice\nseed = 3\n\n" in copy.read_text()
    assert "up_strides = [2,\n    2]\n\n" in copy.read_text()
    assert load(copy, twin=root) == options == load(cfg, twin=root)


def test_the_copy_wins_over_the_file_and_one_line_lists_the_differences(cfg, root):
    settle(cfg, [], root)
    cfg.write_text(TINY.replace("seed = 3", "seed = 4").replace("ema_decay = 0.5", "ema_decay = 1. / 4"))
    options, messages = settle(cfg, [], root)
    copy = copy_path(root, "tiny")
    assert (options.run.seed, options.train.ema_decay) == (3, 0.5)
    assert messages == [
        f"the run's copy {copy} overrides {cfg}: [run] seed = 3 (not 4), [train] ema_decay = 0.5 (not 0.25)"
    ]


def test_another_spelling_of_the_same_value_is_no_difference(cfg, root):
    settle(cfg, [], root)
    cfg.write_text(
        TINY.replace("up_strides = [2, 2]", "up_strides = (1 + 1,) * 2").replace("seed = 3", "Seed: +3")
    )
    assert settle(cfg, [], root)[1] == []


def test_the_copy_can_be_edited_by_hand(cfg, root):
    settle(cfg, [], root)
    copy = copy_path(root, "tiny")
    copy.write_text(
        copy.read_text().replace("synthesis_mode = 'reconstruction'", "synthesis_mode = 'generation'")
    )
    edited = copy.read_text()
    options, messages = settle(cfg, [], root)
    assert options.synthesis.synthesis_mode == "generation"
    assert len(messages) == 1
    assert copy.read_text() == edited


class TestOverrides:
    def test_win_over_both_are_reported_and_written_back(self, cfg, root):
        settle(cfg, [], root)
        copy = copy_path(root, "tiny")
        copy.write_text(copy.read_text().replace("seed = 3", "# kept\nseed = 3"))
        options, messages = settle(cfg, ["run.seed=5"], root)
        assert options.run.seed == 5
        assert messages == ["[run] seed: 5 from the command line (was 3)"]
        assert "# kept\nseed = 5\n" in copy.read_text()
        again, messages = settle(cfg, [], root)
        assert again == options
        assert messages == [f"the run's copy {copy} overrides {cfg}: [run] seed = 5 (not 3)"]

    def test_of_the_first_start_are_in_the_copy(self, cfg, root):
        options, messages = settle(cfg, ["run.name=other run", "train.batch_size=2 * 2"], root)
        copy = copy_path(root, "other run")
        assert messages == [
            "[run] name: other run from the command line",
            "[train] batch_size: 4 from the command line",
        ]
        assert "batch_size = 2 * 2\n" in copy.read_text()
        assert load(copy, twin=root) == options
        assert not copy_path(root, "tiny").exists()

    def test_that_change_nothing_leave_the_copy_alone(self, cfg, root):
        settle(cfg, [], root)
        before = copy_path(root, "tiny").stat()
        _, messages = settle(cfg, ["train.batch_size=2 ** 3"], root)
        assert messages == ["[train] batch_size: 8 from the command line"]
        assert copy_path(root, "tiny").stat().st_mtime_ns == before.st_mtime_ns

    @pytest.mark.parametrize(
        "word",
        [
            "loss.variation_schedule=None",
            'data.dataset_path=it\'s a "path" # with é',
            "data.train_data_path=",
            "synthesis.temperature_settings=[0.5,\n# of two lines\n('linear', 0.1, 1)]",
            "train.precision='float64'",
            "run.wandb=True",
            "optimizer.max_skips_in_row=7",
            "train.ema_decay=1e-3 # a comment",
        ],
    )
    def test_read_back_as_they_were_given(self, cfg, root, word):
        first, _ = settle(cfg, [word], root)
        assert first != load(cfg, twin=root) or word.endswith("=")
        assert load(copy_path(root, "tiny"), twin=root) == first
        assert settle(cfg, [], root)[0] == first

    def test_take_the_place_of_another_name_of_the_option(self, cfg, root):
        cfg.write_text(TINY.replace("variate_masks_quantile", "variates_masks_quantile"))
        options, _ = settle(cfg, ["synthesis.variate_masks_quantile=0.25"], root)
        assert copy_path(root, "tiny").read_text().count("masks_quantile") == 1
        assert load(copy_path(root, "tiny"), twin=root) == options

    def test_can_add_an_option_and_a_section(self, cfg, root):
        cfg.write_text(TINY.replace("[init]\nbatch_size = 1\n", ""))
        options, _ = settle(cfg, ["init.batch_size=2", "run.wandb=True"], root)
        assert (options.init.batch_size, options.run.wandb) == (2, True)
        assert load(copy_path(root, "tiny"), twin=root) == options

    def test_stand_before_defaults_for_all_sections(self, cfg, root):
        cfg.write_text("[DEFAULT]\nema_decay = 0.75\n" + TINY.replace("ema_decay = 0.5\n", ""))
        options, messages = settle(cfg, ["train.ema_decay=0.25"], root)
        assert options.train.ema_decay == 0.25
        assert settle(cfg, [], root)[0] == options
        assert messages == ["[train] ema_decay: 0.25 from the command line"]

    def test_that_are_wrong_leave_the_copy_alone(self, cfg, root):
        refused(cfg, ["run.seed=-1"], root)
        assert not copy_path(root, "tiny").parent.exists()
        settle(cfg, [], root)
        before = copy_path(root, "tiny").read_text()
        refused(cfg, ["run.seed=-1"], root)
        assert copy_path(root, "tiny").read_text() == before


class TestArchitecture:
    @pytest.mark.parametrize(
        ("word", "expected"),
        [
            ("model.up_filters=[16, 16]", "[model] up_filters = [16, 16] would change the architecture"),
            ("data.target_res=16", "[data] target_res = 16 would change"),
            ("data.num_bits=8", "[data] num_bits = 8.0 would change"),
            ("data.dataset_source=custom", "[data] dataset_source = custom would change"),
        ],
    )  # fmt: skip
    def test_of_an_existing_run_cannot_change(self, cfg, root, word, expected):
        settle(cfg, [], root)
        before = copy_path(root, "tiny").read_text()
        line = refused(cfg, [word], root)
        assert line.startswith(f"command line: {expected}")
        assert line.endswith("choose another run.name, or remove the run with 'sh reset.sh tiny'")
        assert copy_path(root, "tiny").read_text() == before

    @pytest.mark.parametrize(
        ("family", "word"),
        [("maskgit", "hidden_dropout"), ("maskgit", "attention_dropout"), ("vqgan", "dropout")],
    )
    def test_does_not_include_dropout(self, root, family, word):
        cfg = EGS / family / "digits.cfg"
        settle(cfg, [f"model.{word}=0.25"], root)
        options, messages = settle(cfg, [f"model.{word}=0.5"], root)
        assert getattr(options.model, word) == 0.5
        assert f"[model] {word}: 0.5 from the command line" in messages[-1]

    def test_may_be_repeated(self, cfg, root):
        settle(cfg, [], root)
        assert settle(cfg, ["model.up_filters=[8] * 2"], root)[0].model.up_filters == (8, 8)

    def test_of_a_new_run_can_be_chosen(self, cfg, root):
        settle(cfg, [], root)
        options, _ = settle(cfg, ["run.name=wide", "model.up_filters=[16, 16]"], root)
        assert options.model.up_filters == (16, 16)

    def test_of_a_changed_file_is_reported_and_the_copy_wins(self, cfg, root):
        settle(cfg, [], root)
        cfg.write_text(TINY.replace("down_latent_variates = [4, 3]", "down_latent_variates = [5, 3]"))
        options, messages = settle(cfg, [], root)
        assert options.model.down_latent_variates == (4, 3)
        assert len(messages) == 1
        assert "[model] down_latent_variates = [4, 3] (not [5, 3])" in messages[0]


class TestMistakes:
    def test_in_the_copy_name_the_copy(self, cfg, root):
        settle(cfg, [], root)
        copy = copy_path(root, "tiny")
        copy.write_text(copy.read_text().replace("seed = 3", "seed = three"))
        assert refused(cfg, [], root) == f"{copy}: [run] seed must be a whole number, not 'three'"

    def test_the_name_in_the_copy_must_be_the_runs(self, cfg, root):
        settle(cfg, [], root)
        copy = copy_path(root, "tiny")
        copy.write_text(copy.read_text().replace("name = tiny", "name = huge"))
        assert refused(cfg, [], root).startswith(f"{copy}: [run] name is 'huge'")

    def test_a_binary_copy_is_named(self, cfg, root):
        settle(cfg, [], root)
        copy_path(root, "tiny").write_bytes(b"\xff\xfe\0")
        assert str(copy_path(root, "tiny")) in refused(cfg, [], root)

    def test_a_folder_that_cannot_be_made_is_named(self, cfg, root):
        root.rmdir()
        root.write_text("in the way")
        assert f"{copy_path(root, 'tiny')} cannot be written" in refused(cfg, [], root)

    def test_a_failed_write_leaves_the_copy_whole(self, cfg, root, monkeypatch):
        settle(cfg, [], root)
        before = copy_path(root, "tiny").read_text()

        def full(*_arguments):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("os.fsync", full)
        assert "No space left" in refused(cfg, ["run.seed=5"], root)
        assert copy_path(root, "tiny").read_text() == before
        assert [path.name for path in copy_path(root, "tiny").parent.iterdir()] == ["hparams-tiny.cfg"]


def test_paths_of_the_command_line_survive_another_working_directory(cfg, root, tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    first, _ = settle(cfg, ["data.dataset_path=pictures"], root)
    monkeypatch.chdir(tmp_path)
    again, messages = settle(cfg, [], root)
    assert first.data.dataset_path == again.data.dataset_path == str(tmp_path / "a" / "pictures")
    assert len(messages) == 1


def test_paths_of_the_file_start_from_the_twin(cfg, root, tmp_path):
    options, _ = settle(cfg, [], root)
    assert options.data.dataset_path == str(tmp_path / "datasets")


def test_json_gives_the_values_back(cfg):
    options = load(cfg)
    values = to_json(options)
    assert json.loads(json.dumps(values)) == values
    assert values["model"]["up_strides"] == [2, 2]
    assert values["synthesis"]["temperature_settings"][2] == ["linear", 0.8, 1.0]
    changed = replace(options, run=replace(options.run, seed=9))
    assert to_json(changed) != values


def test_the_copy_is_readable_by_others(cfg, root):
    settle(cfg, [], root)
    assert copy_path(root, "tiny").stat().st_mode & stat.S_IRUSR


def command(job, root, cfg, *words):
    """Run a twin's command line with an engine that needs no framework."""
    job(Twin("fake", FakeEngine, FakeEngine), root, [str(cfg), *words])


def test_options_of_one_synthesis_hold_for_that_call_alone(cfg, root, capsys):
    command(train_command, root, cfg, "train.total_train_steps=2")
    before = copy_path(root, "tiny").read_text()
    few = "synthesis.synthesis_mode=generation synthesis.temperature_settings=[0.25] synthesis.batch_size=2"
    command(synthesize_command, root, cfg, *few.split())
    assert copy_path(root, "tiny").read_text() == before
    capsys.readouterr()
    command(synthesize_command, root, cfg)
    output = capsys.readouterr().out
    assert "reconstruction: averaged weights" in output
    assert "temperature_settings" not in output


def test_a_start_assembles_and_checks_options_once_and_builds_one_plan(cfg, root, monkeypatch):
    """A run that continues has two sources of options, the file and its copy, and with overrides a third."""
    counts = Counter()

    def count(module, name):
        function = getattr(module, name)

        def counting(*arguments):
            counts[name] += 1
            return function(*arguments)

        monkeypatch.setattr(module, name, counting)

    def start(*words):
        counts.clear()
        make_plan.cache_clear()
        command(train_command, root, cfg, *words)
        return counts["build"], counts["check_options"], make_plan.cache_info().misses

    count(loading, "build")
    count(starting, "check_options")
    assert start("train.total_train_steps=2") == (1, 1, 1)
    cfg.write_text(TINY.replace("total_train_steps = 8", "total_train_steps = 2"))
    assert start() == (2, 1, 1)
    assert start("train.total_train_steps=3") == (3, 1, 1)
    assert start() == (2, 2, 2), "the file's options, and those of the copy, which has three steps"
