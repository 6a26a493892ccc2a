"""The modes that explore latents and score pictures, driven with an engine that needs no framework."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from dioscuri.errors import UserError
from dioscuri.families.hierarchical_vae.plan import make_plan
from dioscuri.families.latent_models import exploration
from dioscuri.families.latent_models.modes import scores
from dioscuri.families.latent_models.modes.examples import chosen_pictures
from dioscuri.run.synthesize import synthesize
from dioscuri.run.train import train

RNG = np.random.default_rng(0)


def picture(path):
    with Image.open(path) as image:
        return np.asarray(image)


def write_pictures(folder, names, size=(8, 8)):
    folder.mkdir(exist_ok=True)
    for name in names:
        Image.fromarray(RNG.integers(0, 256, size, np.uint8)).save(folder / name)
    return folder


@pytest.fixture
def trained(make_run):
    """Make contexts of a run that has checkpoints."""
    train(make_run("train.total_train_steps=3"))
    return lambda mode, *overrides: make_run(f"synthesis.synthesis_mode={mode}", *overrides)


@pytest.fixture
def plan(make_run):
    return make_plan(make_run().hparams)


def test_spherical_paths_keep_lengths_and_ends():
    a, b = RNG.normal(size=(2, 3, 2, 2, 4))
    b *= (np.linalg.norm(a.reshape(3, -1), axis=1) / np.linalg.norm(b.reshape(3, -1), axis=1)).reshape(
        3, 1, 1, 1
    )
    for t, end in ((0.0, a), (1.0, b)):
        np.testing.assert_allclose(exploration.spherical(a, b, t), end, rtol=1e-12)
    middle = exploration.spherical(a, b, 0.5)
    np.testing.assert_allclose(
        np.linalg.norm(middle.reshape(3, -1), axis=1), np.linalg.norm(a.reshape(3, -1), axis=1)
    )
    # No arc between vectors on one line, or from zero: the line stands in for it.
    for other in (2 * a, -a, 0 * a):
        np.testing.assert_allclose(exploration.spherical(a, other, 0.25), 0.75 * a + 0.25 * other, atol=1e-12)


def test_only_chosen_levels_move_and_the_rest_is_held_or_from_the_prior(plan):
    first, last = ({f"z.{g}": RNG.normal(size=plan.latent_shape(g, 2)) for g in range(3)} for _ in range(2))
    calls = []

    def decode(latents, masks):
        calls.append((latents, [float(mask.mean()) for mask in masks]))
        return np.zeros((2, 8, 8, 1), np.uint8)

    assert exploration.film(plan, first, last, 3, decode, levels=(1,)).shape == (2, 3, 8, 8, 1)
    middle, masks = calls[1]
    assert masks == [1, 1, 1]
    np.testing.assert_array_equal(middle["z.0"], first["z.0"])
    moving = [g for g, block in enumerate(plan.groups) if block.level == 1]
    for group in moving:
        np.testing.assert_allclose(middle[f"z.{group}"], (first[f"z.{group}"] + last[f"z.{group}"]) / 2)
    exploration.film(plan, first, last, 2, decode, levels=(1,), rest="prior")
    assert calls[-1][1] == [float(g in moving) for g in range(3)]


def test_a_traversed_variate_runs_through_its_prior(plan):
    encoded = {
        f"{kind}.{g}": RNG.normal(size=plan.latent_shape(g, 2))
        for g in range(3)
        for kind in ("z", "prior_mean", "prior_std")
    }
    seen = []
    exploration.traversal(plan, encoded, (1, 2), [-2, 0], lambda z, m: seen.append((z, m)) or np.zeros(2))
    expected = encoded["prior_mean.1"] - 2 * encoded["prior_std.1"]
    np.testing.assert_array_equal(seen[0][0]["z.1"][..., 2], expected[..., 2])
    np.testing.assert_array_equal(seen[0][0]["z.1"][..., :2], encoded["z.1"][..., :2])
    np.testing.assert_array_equal(seen[1][0]["z.2"], encoded["z.2"])
    exploration.traversal(
        plan, encoded, (1, None), [1], lambda z, m: seen.append((z, m)) or np.zeros(2), rest="prior"
    )
    assert [float(mask.mean()) for mask in seen[-1][1]] == [1, 1, 0]
    np.testing.assert_array_equal(seen[-1][0]["z.1"], encoded["prior_mean.1"] + encoded["prior_std.1"])


def test_interpolation_writes_pairs_films_and_a_sheet(trained, tmp_path):
    folder = write_pictures(tmp_path / "pictures", ["a.png", "b.png", "c.png", "d.png"])
    context = trained(
        "interpolation", f"synthesis.pictures_path={folder}", "synthesis.n_frames=3", "synthesis.n_samples=0"
    )
    synthesize(context)
    output = context.directory.images / "interpolation"
    assert len(list(output.glob("pair-*-frame-*.png"))) == 2 * 3
    a, b = (picture(folder / f"{name}.png").mean() for name in "cd")
    levels = [picture(output / f"pair-0001-frame-00{t}.png")[0, 0] for t in range(3)]
    np.testing.assert_allclose(levels, [a, (a + b) / 2, b], atol=1)
    with Image.open(output / "pair-0001.gif") as film:
        assert film.n_frames == 4
    assert (output / "contact-sheet.png").exists()
    assert (output / "film.gif").exists()
    assert json.loads((output / "settings.json").read_text())["pictures"]["n"] == 4


CLASSES = ("model.num_classes=10", "data.labels=True", "loss.cond_dropout_prob=0.")


def classes_seen(context):
    """Labels of the batches that a mode encodes, and of those that it decodes."""
    seen = {"encode": [], "decode": []}
    run = context.engine.run

    def watched(method, batch, **given):
        if method in seen:
            seen[method].append(batch["label"].tolist() if "label" in batch else None)
        return run(method, batch, **given)

    context.engine.run = watched
    synthesize(context)
    return seen["encode"], seen["decode"]


def test_walks_read_and_show_pictures_given_their_classes(make_run):
    train(make_run("train.total_train_steps=3", *CLASSES))
    words = ("synthesis.n_samples=8", "synthesis.n_frames=3", "synthesis.batch_size=4", *CLASSES)

    def context(mode, *more):
        return make_run(f"synthesis.synthesis_mode={mode}", *words, *more)

    first = context("traversal", "synthesis.variates=[[0]]")
    labels = first.sets.test.labels[:8].tolist()
    a, b = labels[::2], labels[1::2]
    assert a != b
    encoded, decoded = classes_seen(first)
    assert encoded == [labels[:4], labels[4:]]
    assert decoded == [labels[:4]] * 3 + [labels[4:]] * 3
    assert classes_seen(context("interpolation")) == ([a, b], [a, a, b])  # the middle is A's
    asked = context("interpolation", "synthesis.classes=[5,6]")
    assert classes_seen(asked) == ([[5, 6] * 2] * 2, [[5, 6] * 2] * 3)


def test_mixtures_with_latents_of_a_have_the_class_of_a(make_run):
    train(make_run("train.total_train_steps=3", *CLASSES))
    words = ("synthesis.synthesis_mode=mixing", "synthesis.n_samples=8", "synthesis.batch_size=4")
    context = make_run(*words, *CLASSES)
    labels = context.sets.test.labels[:8].tolist()
    encoded, decoded = classes_seen(context)
    assert encoded == [labels[::2], labels[1::2]]
    assert decoded == [labels[1::2]] + [labels[::2]] * 3


def test_class_folders_have_the_numbers_of_the_run(make_run, tmp_path):
    train(make_run("train.total_train_steps=3", *CLASSES))
    words = (
        "synthesis.synthesis_mode=traversal",
        "synthesis.variates=[[0]]",
        "synthesis.n_frames=2",
        *CLASSES,
    )
    sevens = tmp_path / "pictures"
    sevens.mkdir()
    write_pictures(sevens / "7", ["a.png"])
    write_pictures(sevens / "2", ["b.png"])
    encoded, _ = classes_seen(make_run(*words, f"synthesis.pictures_path={sevens}"))
    assert encoded == [[2, 7, 2, 7]]
    write_pictures(sevens / "cat", ["c.png"])
    with pytest.raises(UserError, match="folder 'cat' is not one of the run's classes: 0, 1, 2, 3, 4 and 5"):
        synthesize(make_run(*words, f"synthesis.pictures_path={sevens}"))


def test_two_folders_make_pairs_by_their_order(trained, tmp_path):
    first = write_pictures(tmp_path / "first", ["a.png", "b.png"])
    second = write_pictures(tmp_path / "second", ["x.png", "y.png"])
    words = (f"synthesis.pictures_path={first}", f"synthesis.second_pictures_path={second}")
    context = trained("mixing", *words)
    synthesize(context)
    output = context.directory.images / "mixing"
    assert len(list(output.glob("pair-*-groups-*.png"))) == 2 * 4
    # The engine reads the first group alone: with no group of A, the picture is B's.
    assert abs(picture(output / "pair-0001-groups-000.png")[0, 0] - picture(second / "y.png").mean()) <= 1
    assert abs(picture(output / "pair-0001-groups-001.png")[0, 0] - picture(first / "b.png").mean()) <= 1


def test_traversal_goes_through_the_variates_that_statistics_rank_highest(trained):
    with pytest.raises(UserError, match=r"div_stats first, or name variates with synthesis.variates"):
        synthesize(trained("traversal"))
    synthesize(trained("div_stats"))
    context = trained("traversal", "synthesis.n_variates=4", "synthesis.n_frames=2", "synthesis.n_samples=2")
    synthesize(context)
    output = context.directory.images / "traversal"
    names = {path.name.removesuffix("-step-000.png") for path in output.glob("image-0001-*-step-000.png")}
    ranked = [(2, 2), (2, 1), (2, 0), (1, 3)]
    assert names == {f"image-0001-group-{g}-variate-{v}" for g, v in ranked}
    assert {path.name for path in output.glob("image-000?.*")} == {
        f"image-000{i}.{kind}" for i in (0, 1) for kind in ("png", "gif")
    }
    named = trained("traversal", "synthesis.variates=[[0], [1, 2]]", "synthesis.n_samples=1")
    synthesize(named)
    output = next(context.directory.images.glob("traversal-*"))
    assert len(list(output.glob("image-0000-group-0-step-*.png"))) == 8


@pytest.mark.parametrize(
    ("mode", "words", "says"),
    [
        ("interpolation", ["levels=[2]"], r"levels must be whole numbers from 0, the coarsest, to 1, not 2"),
        (
            "interpolation",
            ["pictures_path={one}"],
            r"one: pairs need an even number of pictures, not 1; or give",
        ),
        (
            "interpolation",
            ["pictures_path={one}", "second_pictures_path={three}"],
            r"pictures_path .*one and .*second_pictures_path .*three must hold the same number .*not 1 and 3",
        ),
        (
            "mixing",
            ["pictures_path={one}", "second_pictures_path={large}"],
            r"a.png is 8x8 and .*a.png 9x7: give pairs of one size",
        ),
        ("interpolation", ["rest=prior"], "rest 'prior' needs levels, those that move"),
        ("mixing", ["pictures_path={empty}"], r"pictures_path '.*empty' holds no pictures"),
        ("scores", ["pictures_path={empty}"], r"pictures_path '.*empty' holds no pictures"),
        ("scores", ["pictures_path={none}"], r"pictures_path .*none.*does not exist"),
        (
            "scores",
            ["pictures_path={mixed}"],
            r"pictures_path '.*mixed': cannot use 1 picture \(b.png: not an",
        ),
        ("traversal", ["variates=[[3, 0]]"], r"there is no group 3, the model has 3, counted from 0"),
        ("traversal", ["variates=[[2, 3]]"], r"group 2 has 3 variates, counted from 0, but no variate 3"),
    ],
)
def test_what_cannot_be_explored_is_one_line(trained, tmp_path, mode, words, says):
    folders = {name: tmp_path / name for name in ("one", "three", "large", "empty", "none", "mixed")}
    write_pictures(folders["one"], ["a.png"])
    write_pictures(folders["three"], ["a.png", "b.png", "c.png"])
    write_pictures(folders["large"], ["a.png"], (7, 9))
    write_pictures(folders["mixed"], ["a.png"])
    (folders["mixed"] / "b.png").write_text("no picture")
    folders["empty"].mkdir()
    context = trained(mode, *(f"synthesis.{word.format(**folders)}" for word in words))
    with pytest.raises(UserError, match=says) as refused:
        synthesize(context)
    assert "\n" not in str(refused.value)
    assert not any(context.directory.images.glob("*/scores.jsonl"))


def test_files_that_are_resized_or_lose_their_colours_are_told(trained, tmp_path, capsys):
    folder = write_pictures(tmp_path / "pictures", ["a.png"])
    context = trained("scores", f"synthesis.pictures_path={folder}")
    chosen_pictures(context)
    assert "note" not in capsys.readouterr().out
    write_pictures(folder, ["b.png"], (7, 9))
    Image.new("RGB", (8, 8)).save(folder / "c.png")
    pictures, _ = chosen_pictures(context)
    assert len(pictures) == 3
    assert (
        f"2 of 3 pictures become 8x8 grey, the first is {folder / 'b.png'} (9x7 grey)"
        in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["synthesis.importance_samples=-1"], "importance_samples must be at least 0"),
        (["synthesis.rest=prior"], "applies only if synthesis_mode is"),
        (["synthesis.pictures_path=x", "synthesis.split=test"], "both name pictures: keep one"),
        (["synthesis.n_frames=1"], "n_frames must be at least 2"),
    ],
)
def test_options_that_do_not_fit_are_one_line(make_run, words, says):
    with pytest.raises(UserError, match=says):
        make_run("synthesis.synthesis_mode=scores", *words)


def test_a_model_whose_scales_overflow_is_named(trained):
    context = trained("interpolation")
    encode = context.engine.encode
    context.engine.encode = lambda *given, **more: {
        name: array * np.inf if name == "std.2" else array for name, array in encode(*given, **more).items()
    }
    with pytest.raises(UserError, match="posterior standard deviation of latent group 2 is not finite"):
        synthesize(context)
    context = trained("scores")
    evaluate = context.engine.evaluate
    context.engine.evaluate = lambda *given, **more: {
        name: np.full_like(array, np.inf) if name == "kl" else array
        for name, array in evaluate(*given, **more).items()
    }
    with pytest.raises(UserError, match=r"picture 'image_\d+': kl of level 0 is not finite"):
        synthesize(context)
    assert not list(context.directory.images.glob("scores/scores.jsonl"))


def scored(context):
    synthesize(context)
    output = context.directory.images / "scores"
    return output, list(scores.read_rows(output / "scores.jsonl"))


def test_scores_have_a_row_a_picture_and_the_means_of_reconstruction(trained):
    words = ("synthesis.importance_samples=4", "synthesis.n_samples=10")
    context = trained("scores", *words)
    output, rows = scored(context)
    pictures = context.sets.test
    assert [row["key"] for row in rows] == list(pictures.keys[:10])
    assert [row["label"] for row in rows] == pictures.labels[:10].tolist()
    level = pictures.gather([3]).astype(float).mean()
    assert rows[3]["reconstruction"] == pytest.approx(level)
    assert rows[3]["kl"] == [2, 1]
    assert rows[3]["negative_elbo"] == pytest.approx(level + 3)
    assert rows[3]["nats_per_dim"] == pytest.approx((level + 3) / 64)
    assert rows[3]["bits_per_dim"] == pytest.approx((level + 3) / 64 / np.log(2))
    # Two of the four draws weigh exp(-3), two exp(-3.3).
    weights = np.exp([-3, -3.3, -3, -3.3])
    assert rows[3]["importance_weighted_bound"] == pytest.approx(level - np.log(weights.mean()))
    assert rows[3]["standard_error"] == pytest.approx(weights.std(ddof=1) / 2 / weights.mean())
    with (output / "scores.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert float(table[3]["negative_elbo"]) == rows[3]["negative_elbo"]
    assert float(table[3]["kl_1"]) == 1
    synthesize(trained("reconstruction", *words))
    reconstructed = context.directory.images / "reconstructed" / "report.json"
    ours, theirs = (json.loads(path.read_text()) for path in (output / "report.json", reconstructed))
    for name in ("negative_elbo", "reconstruction", "importance_weighted_bound", "pictures", "unit"):
        assert ours[name] == (theirs[name] if name == "unit" else pytest.approx(theirs[name], abs=1e-6)), name
    assert (output / "contact-sheet.png").exists()
    assert not (output / scores.UNFINISHED).exists()


def test_a_killed_call_goes_on_and_gives_the_same_file(trained, capsys):
    words = ("synthesis.importance_samples=2", "synthesis.n_samples=18")
    context = trained("scores", *words)
    output, _ = scored(context)
    whole = {path.name: path.read_bytes() for path in output.iterdir()}
    (output / "scores.jsonl").unlink()
    # As a kill in the middle of a row leaves it, in the third batch of four.
    lines = whole["scores.jsonl"].splitlines(keepends=True)
    (output / scores.UNFINISHED).write_bytes(b"".join(lines[:10]) + lines[10][:20])
    context, calls = trained("scores", *words), []
    reconstruct = context.engine.reconstruct
    context.engine.reconstruct = lambda *given, **more: (
        calls.append(more["step"]) or reconstruct(*given, **more)
    )
    synthesize(context)
    assert calls == [2, 3, 4]
    assert "continuing after 8 pictures" in capsys.readouterr().out
    assert {path.name: path.read_bytes() for path in output.iterdir()} == whole


def test_pictures_without_classes_are_not_scored_by_a_model_that_needs_them(make_run, tmp_path):
    words = ("model.num_classes=10", "data.labels=True")
    train(make_run("train.total_train_steps=3", *words))
    folder = write_pictures(tmp_path / "plain", ["a.png", "b.png"])
    mode = ("synthesis.synthesis_mode=scores", f"synthesis.pictures_path={folder}")
    with pytest.raises(UserError, match="has no classes, but the model needs them"):
        synthesize(make_run(*mode, *words))
    walk = ("synthesis.synthesis_mode=interpolation", mode[1])
    with pytest.raises(UserError, match="has no classes, but the model needs them"):
        synthesize(make_run(*walk, *words))
    synthesize(make_run(*walk, *words, "synthesis.classes=[3]"))
