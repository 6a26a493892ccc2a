"""Configurations: read like in the original library, then checked strictly."""

import json
import math
from contextlib import suppress
from dataclasses import FrozenInstanceError, dataclass, fields
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dioscuri.errors import UserError
from dioscuri.families.hierarchical_vae.options import HParams
from dioscuri.hparams import load
from dioscuri.hparams.building import build
from dioscuri.hparams.reader import fold, parse, read, render, settings
from dioscuri.hparams.schema import option
from tests.golden.host_cases import check_hparams, recorded, typed_values
from tests.support.tiny import TINY, write_tiny

ROOT = Path(__file__).parents[2]
CASE = ROOT / "tests" / "golden" / "cases" / "hierarchical_vae" / "hparams"
PUBLISHED = {
    Path(name).stem: sections
    for name, sections in json.loads((CASE / "parsed.json").read_text()).items()
    if name.startswith("egs/")
}


def tiny(tmp_path, old="", new=""):
    """The small configuration with one text replaced."""
    assert old in TINY
    path = tmp_path / "tiny.cfg"
    path.write_text(TINY.replace(old, new, 1))
    return path


def message(path, *overrides, cwd=None):
    """The error of loading, a single line."""
    with pytest.raises(UserError) as caught:
        load(path, overrides, cwd=cwd)
    assert str(caught.value).isprintable()
    return str(caught.value)


def test_the_files_of_the_original_give_their_recorded_values(tmp_path):
    check_hparams(CASE, tmp_path)


@pytest.mark.parametrize("name", PUBLISHED)
def test_our_file_of_a_published_run_holds_its_values(name):
    path = ROOT / "egs" / "hierarchical_vae" / f"{name}.cfg"
    assert typed_values(path.read_text()) == PUBLISHED[name]


def test_there_are_twenty_published_runs():
    assert len(PUBLISHED) == 20


def test_odd_values_are_read_as_the_original_reads_them():
    expected = json.loads((CASE / "odd.json").read_text())
    source = json.loads((CASE / "odd_source.json").read_text())["source"]
    actual = settings(parse(source, "odd"), Path())["run"]
    for key, (kind, value) in expected.items():
        name = fold(key.removeprefix("attr:"))
        if key.startswith("2:"):
            continue
        if kind == "ValueError":
            assert name not in actual
        else:
            got = actual[name].value()
            assert [type(got).__name__, repr(got)] == [kind, value], key


@pytest.mark.parametrize(("key", "text"), [("bad", "foo bar"), ("bad2", "1 +"), ("empty", "")])
def test_what_the_original_cannot_parse_is_an_error(key, text):
    name_and_bad = settings(parse(f"[run]\nname = a b\n{key} = {text}\n", "odd"), Path())["run"]
    assert name_and_bad["name"].value() == "a b"
    with pytest.raises(UserError, match=rf"^odd: \[run\] {key} = "):
        name_and_bad[key].value()


def test_recorded_tells_tuples_from_lists():
    assert recorded([(1, 1), 2.0]) == ["list", [{"tuple": [1, 1]}, 2.0]]


def test_look_up_folds_case_and_signs(tmp_path):
    text = TINY.replace("batch_size = 1\n", "Batch-Size = 7\n").replace("[init]", "[INIT]")
    (tmp_path / "x.cfg").write_text(text)
    assert load(tmp_path / "x.cfg").init.batch_size == 7
    assert load(tmp_path / "x.cfg", ["Init.BATCH-SIZE=9"]).init.batch_size == 9


def test_names_that_fold_to_one_are_refused(tmp_path):
    path = tiny(tmp_path, "seed = 3\n", "seed = 3\nSeed = 4\n")
    assert "[run] Seed is the same as [run] seed" in message(path)


def test_default_holds_for_every_section_that_has_the_option(tmp_path):
    text = "[DEFAULT]\nbatch_size = 6\nema_decay = 0.25\n" + TINY.replace("ema_decay = 0.5\n", "")
    text = text.replace(
        "[val]\nn_samples_for_validation = 20\nbatch_size = 8\n", "[val]\nn_samples_for_validation = 20\n"
    )
    (tmp_path / "x.cfg").write_text(text)
    options = load(tmp_path / "x.cfg")
    assert (options.val.batch_size, options.train.batch_size, options.train.ema_decay) == (6, 8, 0.25)


def test_default_with_an_option_of_no_section_is_refused(tmp_path):
    (tmp_path / "x.cfg").write_text(f"[DEFAULT]\nbatch_sizes = 6\n{TINY}")
    assert "[DEFAULT] batch_sizes is unknown (did you mean 'batch_size'?)" in message(tmp_path / "x.cfg")


def test_values_are_typed_and_frozen(tmp_path):
    options = load(write_tiny(tmp_path))
    assert isinstance(options, HParams)
    assert options.model.up_strides == (2, 2)
    assert options.synthesis.temperature_settings == (0.5, (0.8, 1.0), ("linear", 0.8, 1.0))
    assert (options.loss.vae_beta_anneal_start, type(options.loss.vae_beta_anneal_start)) == (1.0, float)
    with pytest.raises(FrozenInstanceError):
        options.run.seed = 1


def test_every_option_of_ours_has_a_documented_default(tmp_path):
    originals = {(s, o) for sections in PUBLISHED.values() for s, actual in sections.items() for o in actual}
    options = load(write_tiny(tmp_path))
    for section in fields(options):
        for declared in fields(getattr(options, section.name)):
            ours = (section.name, declared.name) not in originals
            has_default = declared.default is not declared.default_factory
            assert ours == has_default, declared.name
            assert declared.metadata["doc"]
    assert len(originals) == 88


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("seed = 3", "sede = 3", "[run] sede is unknown (did you mean 'seed'?)"),
        ("seed = 3", "seed = 3\nlearning_rate = 1.", "unknown (it belongs in [optimizer])"),
        ("[train]", "[trian]", "section [trian] is unknown (did you mean 'train'?)"),
        ("seed = 3\n", "", "[run] lacks seed: every option needs a value"),
        ("[init]\nbatch_size = 1\n", "", "[init] lacks batch_size"),
        ("[metrics]\nlatent_active_threshold = 1e-4\n", "[metrics]\n", "[metrics] lacks latent_active"),
        ("seed = 3", "seed = 3.0", "[run] seed must be a whole number, not 3.0"),
        ("seed = 3", "seed = True", "[run] seed must be a whole number, not True"),
        ("seed = 3", "seed = three", "[run] seed must be a whole number, not 'three'"),
        ("seed = 3", "seed = -1", "[run] seed must be at least 0, not -1"),
        ("seed = 3", "seed = 9**9**9", "[run] seed = 9**9**9: an integer would have"),
        ("stable_init = True", "stable_init = 1", "[model] stable_init must be True or False, not 1"),
        ("ema_decay = 0.5", "ema_decay = 1.5", "[train] ema_decay must be at most 1, not 1.5"),
        ("ema_decay = 0.5", "ema_decay = float('nan')", "[train] ema_decay must be a number, not nan"),
        ("ema_decay = 0.5", "ema_decay = 1e999", "[train] ema_decay must be a number, not inf"),
        ("ema_decay = 0.5", "ema_decay = True", "[train] ema_decay must be a number, not True"),
        ("up_strides = [2, 2]", "up_strides = [2, 0]", "[model] up_strides must be at least 1, not 0"),
        ("up_strides = [2, 2]", "up_strides = [2, 2.]", "not [2, 2.0], because of 2.0"),
        ("up_strides = [2, 2]", "up_strides = 2", "up_strides must be a list of whole numbers, not 2"),
        ("up_strides = [2, 2]", "up_strides = [1] * 10**9", "up_strides = [1] * 10**9: it would hold"),
        ("kernel_size = (3, 3)", "kernel_size = (3, 3, 3)", "or (a whole number, a whole number)"),
        ("type = 'Adamax'", "type = 'Adamix'", "(did you mean 'Adamax'?); it is one of 'Adamax'"),
        ("schedule = 'Linear'", "schedule = None", "must be text, not None; put it in quotes"),
        ("[0.5, [0.8, 1],", "[0.5, ('linear', 0.8),", "[synthesis] temperature_settings must be a list of"),
        ("[0.5, [0.8, 1], ('linear', 0.8, 1.)]", "[]", "[synthesis] temperature_settings is empty"),
        ("name = tiny", "name =", "[run] name '' names the run's folder"),
        ("name = tiny", "name = ../tiny", "[run] name '../tiny' names the run's folder"),
        ("seed = 3", "seed = 3\nfamily = 'hierarchical'", "(did you mean 'hierarchical_vae'?)"),
        ("seed = 3", "seed = 3\nfamily = os", "family 'os' is unknown; known: classifier, hierarchical_vae"),
        ("warmup_steps = 1.", "warmup_steps = 6.", "warmup_steps 6 must not be more than decay_start 5"),
        ("_quantile = 0.5", "_quantile = 0.5\nvariates_masks_quantile = 0.5", "the same option: keep"),
    ],
)  # fmt: skip
def test_a_mistake_gets_one_line(tmp_path, old, new, expected):
    path = tiny(tmp_path, old, new)
    line = message(path)
    assert expected in line
    if "decay_start" not in expected and "is empty" not in expected:
        assert line.startswith((f"{path}: [", f"{path}: section"))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"\xff\xfe\x00binary\x00", "is not text in UTF-8"),
        (b"\0\0\0\0", "line 1: the first option comes before any [section]"),
        (b"", "lacks"),
        (b"a = 1\n", "line 1: the first option comes before any [section]"),
        (b"[run]\nname\n", "line 2: this is not 'option = value'"),
        (b"[run]\n= 1\n", "line 2: this is not 'option = value'"),
        (b"[run]\na" + b" " * 900_000 + b"b = 1\n", "line 2: this is not 'option = value'"),
        (b"[run" + b"[" * 900_000 + b"\n", "line 1: "),
        (b"[run]\nseed = 1\nseed = 2\n", "line 3: [run] seed is there twice: keep one"),
        (b"[run]\nseed = 1\n[run]\n", "line 3: section [run] is there twice"),
        (b"[run]\n[Run]\n", "[Run] is the same as [run]"),
        (b"[run]\nseed = " + b"1" * 2_000_000, "larger than 1000000 bytes"),
        (b"[run]\nseed = \0\n", "null"),
    ],
)
def test_a_file_that_is_no_configuration_gets_one_line(tmp_path, content, expected):
    path = tmp_path / "bad.cfg"
    path.write_bytes(content)
    line = message(path)
    assert str(path) in line
    assert expected in line


def test_a_missing_file_and_a_folder_get_one_line(tmp_path):
    assert f"configuration {tmp_path / 'none.cfg'} does not exist: give" in message(tmp_path / "none.cfg")
    assert message(tmp_path) == f"configuration {tmp_path} is not a file"
    assert "cannot be read" in message(tmp_path / ("x" * 500))
    assert "cannot be read" in message("a\0b")


def test_a_byte_order_mark_and_windows_line_ends_are_read(tmp_path):
    (tmp_path / "x.cfg").write_bytes(b"\xef\xbb\xbf" + TINY.lstrip().replace("\n", "\r\n").encode())
    assert load(tmp_path / "x.cfg") == load(write_tiny(tmp_path))


class TestOverrides:
    def test_win_over_the_file(self, tmp_path):
        options = load(
            write_tiny(tmp_path), ["train.batch_size=4 * 4", "run.name=a b", "train.batch_size=2 * 4"]
        )
        assert (options.train.batch_size, options.run.name) == (8, "a b")

    def test_text_needs_no_quotes(self, tmp_path):
        for text in ("None", "'None'", '"None"'):
            assert (
                load(write_tiny(tmp_path), [f"loss.variation_schedule={text}"]).loss.variation_schedule
                == "None"
            )

    def test_reach_options_that_the_file_lacks(self, tmp_path):
        path = tiny(tmp_path, "[init]\nbatch_size = 1\n")
        options = load(path, ["init.batch_size=5", "train.precision=float64"])
        assert (options.init.batch_size, options.train.precision) == (5, "float64")

    def test_win_under_another_name_of_the_option(self, tmp_path):
        path = tiny(tmp_path, "variate_masks", "variates_masks")
        assert load(path).synthesis.variate_masks_quantile == 0.5
        assert load(path, ["synthesis.variate_masks_quantile=0.1"]).synthesis.variate_masks_quantile == 0.1

    @pytest.mark.parametrize(
        ("word", "expected"),
        [
            ("train.batch_sise=1", "[train] batch_sise is unknown (did you mean 'batch_size'?)"),
            ("trian.batch_size=1", "section [trian] is unknown (did you mean 'train'?)"),
            ("train.batch_size=", "[train] batch_size = '': it is empty"),
            ("train.batch_size=a", "[train] batch_size must be a whole number, not 'a'"),
            ("train.batch_size=[1]*10**10", "[train] batch_size = [1]*10**10: it would hold"),
            ("train.precision=float31", "cannot be 'float31' (did you mean 'float32'?)"),
            ("batch_size=1", "'batch_size=1' is not section.option=value"),
            ("train.batch_size", "'train.batch_size' is not section.option=value"),
            ("default.batch_size=1", "must name the section"),
            ("run.name=a/b", "[run] name 'a/b' names the run's folder"),
            ("run.name=a\nb", r"[run] name 'a\nb' names the run's folder"),
        ],
    )
    def test_mistakes_name_the_command_line(self, tmp_path, word, expected):
        line = message(write_tiny(tmp_path), word)
        assert line.startswith("command line: ")
        assert expected in line


class TestPaths:
    def test_of_a_file_start_from_the_twin(self, tmp_path):
        path = tiny(tmp_path, "train_data_path = ''", "train_data_path = '../datasets/x/'")
        assert load(path).data.train_data_path == str(ROOT / "datasets" / "x")
        assert load(path, twin=tmp_path / "twin").data.train_data_path == str(tmp_path / "datasets" / "x")

    def test_of_the_command_line_start_from_the_working_directory(self, tmp_path, monkeypatch):
        path = write_tiny(tmp_path)
        words = ["data.dataset_path=my pictures/é"]
        assert load(path, words, cwd=tmp_path / "a").data.dataset_path == str(
            tmp_path / "a" / "my pictures/é"
        )
        monkeypatch.chdir(tmp_path)
        assert load(path, words).data.dataset_path == str(tmp_path / "my pictures" / "é")

    def test_defaults_are_absolute_and_empty_stays_empty(self, tmp_path):
        data = load(write_tiny(tmp_path)).data
        assert data.dataset_path == str(ROOT / "datasets")
        assert data.val_data_path == ""

    def test_home_is_known(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        options = load(write_tiny(tmp_path), ["data.dataset_path=~/x"])
        assert options.data.dataset_path == str(tmp_path / "x")

    def test_null_characters_are_refused(self, tmp_path):
        assert "contains a null character" in message(write_tiny(tmp_path), r"data.train_data_path='a\0'")


@dataclass(frozen=True, kw_only=True)
class Odd:
    size: int | None = option(None, doc="size")
    mode: Literal["a", 1] = option("a", doc="mode")
    bounds: tuple[tuple[float, float], ...] = option((), low=0, high=9, doc="bounds")


@dataclass(frozen=True, kw_only=True)
class OddHParams:
    odd: Odd


class TestSchema:
    def make(self, text):
        return build(OddHParams, settings(parse(f"[odd]\n{text}\n", "f"), Path()), "f", Path()).odd

    def test_other_types(self):
        assert self.make("size = None\nmode = 1\nbounds = [(1, 2), [3, 4]]") == Odd(
            mode=1, bounds=((1.0, 2.0), (3.0, 4.0))
        )
        assert self.make("bounds = range(0)") == Odd()

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("size = 1.", "size must be a whole number or None, not 1.0"),
            ("mode = True", "mode must be 'a' or 1, not True"),
            ("bounds = [(1, 2, 3)]", "bounds must be a list of ((a number, a number)), not [(1, 2, 3)]"),
            ("bounds = [(1, 10)]", "bounds must be at most 9, not 10"),
        ],
    )
    def test_refusals(self, text, expected):
        with pytest.raises(UserError) as caught:
            self.make(text)
        assert expected in str(caught.value)

    def test_large_integers_that_are_asked_as_numbers(self):
        assert self.make("bounds = [(0, 9)]").bounds == ((0.0, 9.0),)
        assert math.isfinite(self.make("size = 2**39").size)

    @pytest.mark.parametrize("number", ["10**18", "2**255", "-10**18"])
    def test_no_number_is_beyond_what_a_run_can_have(self, number):
        with pytest.raises(UserError, match=r"size must be at (most|least) -?1000000000000, not "):
            self.make(f"size = {number}")


class TestDocument:
    TEXT = (
        "; file\n# of two lines\n\n[a]\n# of x\nx = [1,\n      # inside\n  2]\n\n\n"
        "# one\n\n# two\ny: b  \n[b]\n# last\n"
    )

    def test_comments_are_kept(self):
        document = parse(self.TEXT, "f")
        assert render(document) == (
            "; file\n# of two lines\n\n[a]\n\n# of x\nx = [1,\n    2]\n\n# inside\n\n"
            "# one\n\n# two\ny = b\n\n[b]\n\n# last\n"
        )

    def test_rendering_twice_changes_nothing(self):
        once = render(parse(self.TEXT, "f"))
        assert render(parse(once, "f")) == once

    @pytest.mark.parametrize("path", sorted((ROOT / "egs").rglob("*.cfg")), ids=lambda path: path.stem)
    def test_shipped_configurations_keep_values_and_comments(self, path):
        document = read(path)
        again = parse(render(document), str(path))
        assert again == document
        lines = [line for line in path.read_text().splitlines() if line.startswith("#")]
        assert [line for line in render(document).splitlines() if line.startswith("#")] == lines

    @given(
        st.lists(
            st.one_of(
                st.sampled_from(
                    ["[a]", "[b]", "[c]", "", "  ", "# c", "  ; d", "    3]", "\t'x'", "x = [1,", "y=\n  2"]
                ),
                st.from_regex(r"[a-z]{1,2} ?[:=] ?[a-z0-9=:\[\]# ]{0,6}", fullmatch=True),
            ),
            max_size=12,
        ).map("\n".join)
    )
    def test_any_text_that_can_be_read_keeps_values_and_comments(self, text):
        with suppress(UserError):
            document = parse(text, "f")
            again = parse(render(document), "f")
            assert written(again) == written(document)
            assert comments(render(document)) == comments(text)


def written(document):
    """Sections and options of a document with their texts."""
    return [(section.name, [(e.option, e.text) for e in section.entries]) for section in document.sections]


def comments(text):
    """Comment lines in any order: those inside a value move after it."""
    return sorted(line.strip() for line in text.split("\n") if line.strip().startswith(("#", ";")))


def test_a_runs_name_has_at_most_100_characters(tmp_path):
    assert load(tiny(tmp_path), [f"run.name={'x' * 100}"]).run.name == "x" * 100
    assert "at most 100 characters" in message(tiny(tmp_path), f"run.name={'x' * 101}")
