"""Both twins tell foreign pictures alike, by scores that are what their papers say."""

import csv
import io
import json
from functools import cache
from importlib import import_module

import numpy as np
import pytest
from PIL import Image

from dioscuri import UserError
from dioscuri.cli.evaluate import main
from dioscuri.cli.main import command_parser
from dioscuri.families.latent_models.bounds import importance_bound, log_weight
from dioscuri.families.latent_models.exploration import masks_of
from tests.support import faces
from tests.support.twins import ROOT

TWINS = ("torch", "jax")
SMALL = {"width": 8, "enc_blocks": "4x1,4d4,1x1", "dec_blocks": "1x1,4m1", "zdim": 2}
RNG = np.random.default_rng(0)
KNOWN = RNG.integers(0, 8, (11, 8, 8, 1), np.uint8) * 16
FOREIGN = RNG.integers(8, 16, (5, 8, 8, 1), np.uint8) * 16


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    import_module("dioscuri.torch").new(ROOT / faces.METROPLEX, seed=1, **SMALL).save(root / "metroplex")
    runs = {"vae": faces.write_run(root, "vae", faces.tiny.TINY), "metroplex": root / "metroplex"}
    return runs | {"huge": faces.write_run(root, "huge", faces.tiny.TINY, spread=1e30)}


@pytest.fixture(scope="module")
def model(runs):
    """A model of a twin and kind in a precision, opened once."""
    dio = {twin: import_module(f"dioscuri.{twin}") for twin in TWINS}
    return cache(lambda twin, kind, dtype="float32": dio[twin].load(runs[kind], dtype=dtype))


@pytest.mark.parametrize("kind", ["vae", "metroplex"])
def test_the_same_seed_gives_both_twins_the_same_report_in_float64(model, kind):
    reports = [
        model(twin, kind, "float64").detect(KNOWN, FOREIGN, samples=2, seed=3, batch_size=3) for twin in TWINS
    ]
    ours, theirs = ([report.known.columns(), report.foreign["foreign"].columns()] for report in reports)
    for first, second in zip(ours, theirs, strict=True):
        for name, column in first.items():
            assert column.dtype == np.float64
            np.testing.assert_allclose(second[name], column, rtol=1e-9, atol=1e-9 * abs(column).max())
    assert reports[0].k == reports[1].k
    assert reports[0].separations() == reports[1].separations()
    assert len(reports[0].known) == 9  # two of eleven chose k


def test_scores_are_the_bounds_with_the_same_noise(model):
    vae = model("torch", "vae", "float64")
    S = 3
    got = vae.foreign_scores(KNOWN, samples=S, seed=5)
    bounds, upper, weights = [], [], []
    coarse = [group for group, block in enumerate(vae.plan.groups) if block.level == 0]
    for draw in range(S):
        noise = vae._noise(np.arange(len(KNOWN)), 5, draw)
        given = {"noise": noise, "masked": True}
        whole, above = (
            vae._network.run("evaluate", {"image": KNOWN}, masks=masks_of(vae.plan, groups), **given)
            for groups in (range(3), coarse)
        )
        assert (above["kl"][:, coarse] == whole["kl"][:, coarse]).all()  # the same latents above
        bounds.append(-whole["reconstruction"] - whole["kl"].sum(1))
        upper.append(-above["reconstruction"] - above["kl"].sum(1))
        weights.append(log_weight(whole))
    tight = -importance_bound(weights)
    np.testing.assert_allclose(got.likelihood, -tight)
    np.testing.assert_allclose(got.ratio, (tight - np.mean(upper, 0))[:, None])
    one = vae.foreign_scores(KNOWN, samples=1, seed=5)
    np.testing.assert_allclose(one.likelihood, -bounds[0])
    np.testing.assert_allclose(one.ratio[:, 0], bounds[0] - upper[0])


def test_complexity_is_what_the_likelihood_needs_beyond_the_file(model):
    got = model("torch", "vae").foreign_scores(KNOWN, samples=1)
    for column, kind, options in (
        (got.png, "PNG", {"optimize": True}),
        (got.webp, "WEBP", {"lossless": True}),
    ):
        file = io.BytesIO()
        Image.fromarray(KNOWN[4, ..., 0]).save(file, kind, **options)
        assert column[4] == pytest.approx(got.likelihood[4] / np.log(2) - 8 * len(file.getvalue()))
    below = model("torch", "vae").foreign_scores(KNOWN + 15, samples=1)  # bits that the model does not know
    np.testing.assert_array_equal(below.complexity, got.complexity)


class Counting:
    """A source that remembers how many pictures were asked for at once."""

    def __init__(self, pictures):
        self.pictures, self.most = pictures, 0

    def __len__(self):
        return len(self.pictures)

    def gather(self, indices):
        self.most = max(self.most, len(indices))
        return self.pictures[indices]


def test_pictures_are_read_a_batch_at_a_time_and_batches_change_nothing(model):
    vae, sources = model("torch", "vae", "float64"), [Counting(KNOWN), Counting(FOREIGN)]
    small = vae.detect(sources[0], {"strange": sources[1]}, k=1, samples=2, batch_size=2)
    assert [source.most for source in sources] == [2, 2]
    large = vae.detect(KNOWN, {"strange": FOREIGN}, k=1, samples=2)
    np.testing.assert_allclose(small.known.ratio, large.known.ratio, rtol=1e-9)
    np.testing.assert_allclose(small.foreign["strange"].png, large.foreign["strange"].png, rtol=1e-9)
    assert len(large.known) == len(KNOWN)  # none of them chose k
    assert large.choice == {}
    alone = vae.foreign_scores(FOREIGN[:2], samples=2)
    np.testing.assert_allclose(alone.likelihood, large.foreign["strange"].likelihood[:2], rtol=1e-9)


def test_validation_pictures_choose_k_in_place_of_known_ones(model):
    vae = model("torch", "metroplex")
    report = vae.detect(KNOWN, FOREIGN, validation=KNOWN[:4], samples=1)
    assert len(report.known) == len(KNOWN)
    assert report.k == 1
    assert set(report.choice) == {"means of two", "tiles", "speckles"}
    assert {values.shape for values in report.choice.values()} == {(1,)}


def test_a_model_of_one_level_counts_groups():
    dio = import_module("dioscuri.torch")
    blocks = {"width": 8, "enc_blocks": "4x1", "zdim": 2}
    three = dio.new(ROOT / faces.METROPLEX, **blocks, dec_blocks="4x3").detect(KNOWN, FOREIGN, samples=1)
    assert three.known.ratio.shape == (9, 2)
    one = dio.new(ROOT / faces.METROPLEX, **blocks, dec_blocks="4x1").detect(KNOWN, FOREIGN, samples=1)
    assert one.k is None
    assert one.shown() == ("likelihood", "complexity_png", "complexity_webp", "complexity")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Sets of pictures for the command line."""
    folder = tmp_path_factory.mktemp("files")
    grey = {"known": KNOWN, "strange": FOREIGN, "one": KNOWN[:1], "small": KNOWN[:, :4], "five": KNOWN[:5]}
    for name, pictures in grey.items():
        (folder / name).mkdir()
        for index, picture in enumerate(pictures):
            Image.fromarray(picture[..., 0]).save(folder / name / f"{index:02d}.png")
    np.save(folder / "array.npy", FOREIGN)
    np.save(folder / "colour.npy", np.repeat(KNOWN, 3, -1))
    np.save(folder / "features.npy", np.zeros((4, 3)))
    np.save(folder / "clips.npy", KNOWN[:, None])
    (folder / "nothing").mkdir()
    return folder


def evaluate(runs, words):
    kinds = ("vae", "metroplex", "huge")
    main([str(runs[word]) if word in kinds else word for word in words.split()])


def test_the_command_writes_what_the_method_returns(runs, model, files, monkeypatch, capsys):
    monkeypatch.chdir(files)
    evaluate(runs, "--ood vae --known known --foreign strange array.npy --samples 2 --out made --twin torch")
    printed = capsys.readouterr().out
    report = model("torch", "vae").detect(KNOWN, {"strange": FOREIGN}, samples=2)
    written = json.loads((files / "made" / "report.json").read_text())
    expected = {name: vars(s) for name, s in report.separations()["strange"].items()}
    assert written["foreign"]["strange"]["scores"] == expected
    assert written["foreign"]["array"]["scores"] == expected
    assert written["settings"]["n_samples"] == "2"
    assert (written["known"], written["k"]) == (9, 1)
    with (files / "made" / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 9 + 5 + 5
    strange = [row for row in rows if row["set"] == "strange"]
    assert strange[3]["picture"] == "strange/03.png"
    assert float(strange[3]["ratio_1"]) == report.foreign["strange"].ratio[3, 0]
    for name in report.shown():
        assert f"strange         5  {name}" in printed
        with Image.open(files / "made" / f"{name}.png") as chart:
            chart.verify()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--ood vae --known known", "required: --foreign; usage: dioscuri evaluate --ood MODEL"),
        ("--ood vae --known known --foreign strange --extractor x", "unrecognized arguments: --extractor"),
        ("known strange --levels 1", "--levels belongs to --ood MODEL: give both, or leave it out"),
        ("--ood vae --known known --foreign nothing", "nothing: holds no pictures"),
        ("--ood vae --known known --foreign features.npy", "features.npy holds features, not pictures"),
        ("--ood vae --known known --foreign clips.npy", "clips.npy holds clips, not pictures"),
        ("--ood vae --known known --foreign one", "one: 1 pictures are too few: give at least 2"),
        ("--ood vae --known five --foreign strange", "5 pictures are too few to choose k by a quarter"),
        ("--ood vae --known known --foreign small", "is 4x8, but the model takes 8x8; give --resize 8"),
        ("--ood vae --known known --foreign colour.npy", "pictures are RGB, the model takes grey"),
        (
            "--ood vae --known known --foreign strange --levels 2",
            "k must be a number of the finest levels, from 1 to 1",
        ),
        ("--ood vae --known known --foreign strange strange", "--foreign has strange twice"),
        ("--ood vae --known known --foreign strange --samples 0", "samples must be a whole number of at lea"),
        ("--ood huge --known known --foreign strange", "picture 0: its bound is not finite, because"),
        ("--ood nowhere --known known --foreign strange", "nowhere"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(runs, files, monkeypatch, words, says):
    monkeypatch.chdir(files)
    with pytest.raises(UserError) as refused:
        evaluate(runs, f"{words} --out never" if "--ood" in words else words)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not (files / "never").exists()


def test_histograms_do_not_become_part_of_a_set(runs, files, monkeypatch):
    monkeypatch.chdir(files)
    with pytest.raises(UserError, match=r"--out known/report lies in the set known: give a folder outside"):
        evaluate(runs, "--ood vae --known known --foreign strange --out known/report")
    assert not (files / "known" / "report").exists()


def test_what_is_no_vae_says_so(tmp_path):
    classifier = import_module("dioscuri.torch").new("classifier", num_classes=2, target_res=8, channels=1)
    classifier.save(tmp_path / "classifier")
    with pytest.raises(UserError, match="a model of family 'classifier' cannot detect: it can"):
        main(["--ood", str(tmp_path / "classifier"), "--known", "a", "--foreign", "b"])


@pytest.mark.parametrize("foreign", [{}, {"known": FOREIGN}])
def test_foreign_sets_have_names_of_their_own(model, foreign):
    with pytest.raises(UserError, match="foreign must be a set of pictures, or sets by names other than"):
        model("torch", "vae").detect(KNOWN, foreign)


def test_help_and_completion_know_the_options(capsys):
    assert {"--ood", "--known", "--foreign", "--validation"} <= set(command_parser("evaluate").options)
    for words, text in ((["--help"], "--ood MODEL"), (["--ood", "--help"], "likelihood ratio of Havtorn")):
        with pytest.raises(SystemExit):
            main(words)
        assert text in capsys.readouterr().out
