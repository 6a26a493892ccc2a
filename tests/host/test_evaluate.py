"""`dioscuri evaluate`: its output for folders and feature files."""

import json

import numpy as np
import pytest
from PIL import Image

from dioscuri.cli.evaluate import evaluate
from dioscuri.errors import UserError
from dioscuri.metrics.frechet import frechet_distance, moments
from dioscuri.metrics.inception_score import inception_score
from dioscuri.metrics.kernel import kernel_distance
from dioscuri.metrics.manifold import compare_manifolds
from dioscuri.outputs.settings import SETTINGS
from tests.support.evaluated import digits, no_engine, run, table, write_folder, write_npy


@pytest.fixture
def sets(tmp_path):
    """Two folders of grey pictures, and the pictures as features."""
    samples, reference = digits(0, 30), digits(1, 40)
    folders = (write_folder(tmp_path / name, part) for name, part in (("made", samples), ("real", reference)))
    return *folders, samples.reshape(30, -1), reference.reshape(40, -1)


def test_metrics_of_folders_are_those_of_their_pixels(sets, tmp_path, capsys):
    made, real, samples, reference = sets
    results = table(tmp_path / "out.json", made, real, "--k", 5, "--seed", 3)
    values = {name: measure["value"] for name, measure in results["metrics"].items()}
    ratios = compare_manifolds(samples, reference, k=5)
    expected = {
        "FD-pixels": frechet_distance(moments(samples), moments(reference)),
        "KD-pixels": kernel_distance(samples, reference, subset_size=30, seed=3)[0],
        "precision": ratios.precision,
        "recall": ratios.recall,
        "density": ratios.density,
        "coverage": ratios.coverage,
    }
    assert values.pop("nearest") > 0
    assert values == pytest.approx(expected)
    assert (results["samples"], results["reference"], results["seed"]) == (30, 40, 3)
    printed = capsys.readouterr().out
    assert f"samples:   30 of {made}" in printed
    assert "FD-pixels" in printed
    assert "FID" not in printed
    assert "note:" not in printed


def test_pictures_of_files_and_of_arrays_are_the_same(sets, tmp_path):
    made, real, samples, _ = sets
    array = write_npy(tmp_path / "made.npy", samples.reshape(30, 4, 4))
    left, right = (table(tmp_path / "out.json", one, real)["metrics"] for one in (made, array))
    assert left == right


def test_a_clip_is_compared_by_the_pixels_of_all_frames(sets, tmp_path):
    results = []
    for kind, shape in (("clips", (-1, 2, 4, 4, 1)), ("pictures", (-1, 8, 4, 1))):
        paths = [
            write_npy(tmp_path / f"{kind}{k}.npy", rows.reshape(shape)) for k, rows in enumerate(sets[2:])
        ]
        metrics = table(tmp_path / "out.json", *paths)["metrics"]
        results.append({name: measure["value"] for name, measure in metrics.items()})
    assert results[0] == pytest.approx(results[1])


def test_the_contact_sheet_is_no_sample_and_the_sampling_is_reported(sets, tmp_path, capsys):
    made, real, _, _ = sets
    Image.new("L", (50, 70)).save(made / "contact-sheet.png")
    settings = {"run": "tiny", "options": {"data": {"seed": 1}, "synthesis": {"steps": 8}}}
    (made / SETTINGS).write_text(json.dumps(settings | {"progress": {"done": 30, "complete": True}}))
    results = table(tmp_path / "out.json", made, real)
    assert (results["samples"], results["sampling"]) == (30, settings)
    printed = capsys.readouterr().out
    assert "sampling:  run=tiny, steps=8" in printed
    assert "was interrupted" not in printed
    assert results["settings"]["samples"] == str(made)
    assert results["settings"]["k"] == "3"
    assert "numpy" in results["settings"]["versions"]
    (made / SETTINGS).write_text(json.dumps(settings | {"progress": {"done": 20, "complete": False}}))
    table(tmp_path / "out.json", made, real)
    assert "was interrupted" in capsys.readouterr().out


def test_grey_samples_are_compared_with_colours(sets, tmp_path):
    made, _, samples, _ = sets
    colours = digits(2, 20, channels=3)
    results = table(tmp_path / "out.json", made, write_folder(tmp_path / "colours", colours))
    grey_as_rgb = np.repeat(samples, 3, axis=1)
    expected = frechet_distance(moments(grey_as_rgb), moments(colours.reshape(20, -1)))
    assert results["metrics"]["FD-pixels"]["value"] == pytest.approx(expected)


def test_only_inception_features_give_an_fid(tmp_path, capsys):
    random = np.random.default_rng(0)
    first, second = (write_npy(tmp_path / f"{i}.npy", random.normal(size=(12, 2048))) for i in range(2))
    logits = write_npy(tmp_path / "logits.npy", random.normal(size=(12, 7)))
    words = (first, second, "--logits", logits)
    named = table(tmp_path / "out.json", *words, "--extractor", "dinov2")["metrics"]
    inception = table(tmp_path / "out.json", *words, "--extractor", "inception")["metrics"]
    assert {"FD-dinov2", "KD-dinov2", "IS-dinov2"} < set(named)
    assert {"FID", "KID", "IS"} < set(inception)
    assert inception["FID"]["value"] == named["FD-dinov2"]["value"]
    score = inception_score(np.load(logits), splits=10, seed=0)
    assert (inception["IS"]["value"], inception["IS"]["deviation"]) == pytest.approx(score)
    assert "no more examples than the 2048 features" in capsys.readouterr().out


def test_class_agreement_is_that_of_a_vote(tmp_path):
    """Clusters of two classes; a quarter of the samples lies in the other class's cluster."""
    random = np.random.default_rng(0)
    labels = np.arange(40) % 2
    reference = random.normal(size=(40, 3)) + 100 * labels[:, None]
    lies_in = labels[:16].copy()
    lies_in[:4] = 1 - lies_in[:4]
    samples = random.normal(size=(16, 3)) + 100 * lies_in[:, None]
    asked = tmp_path / "labels.json"
    asked.write_text(json.dumps({f"image-{i:04d}": int(label) for i, label in enumerate(labels[:16])}))
    results = table(
        tmp_path / "out.json",
        write_npy(tmp_path / "s.npy", samples),
        write_npy(tmp_path / "r.npy", reference),
        "--labels",
        asked,
        "--reference-labels",
        write_npy(tmp_path / "l.npy", labels),
    )
    assert results["metrics"]["class agreement"]["value"] == 0.75


@pytest.mark.parametrize("kinds", ["folders", "folder and array", "arrays"])
def test_colours_of_any_picture_count(tmp_path, kinds):
    """Red and green sets whose first pictures are grey, and whose colours are equally bright."""
    sets = []
    for name, colour in (("red", (255, 0, 0)), ("green", (0, 130, 0))):
        pictures = np.full((6, 8, 8, 3), colour, np.uint8)
        pictures[0] = 76
        if kinds == "arrays" or (kinds != "folders" and name == "red"):
            sets.append(write_npy(tmp_path / f"{name}.npy", pictures))
            continue
        sets.append(write_folder(tmp_path / name, pictures))
        Image.new("L", (8, 8), 76).save(sets[-1] / "0000.png")
    assert table(tmp_path / "out.json", *sets)["metrics"]["FD-pixels"]["value"] > 1e5
    swapped = table(tmp_path / "out.json", *sets[::-1])["metrics"]["FD-pixels"]["value"]
    assert swapped == table(tmp_path / "out.json", *sets)["metrics"]["FD-pixels"]["value"]


def test_pictures_of_mixed_sizes_are_resized_when_asked(tmp_path):
    pictures = digits(0, 6, side=8)
    made = write_folder(tmp_path / "made", pictures)
    large = Image.fromarray(pictures[2, ..., 0]).resize((20, 12), Image.Resampling.NEAREST)
    large.save(made / "0002.png")
    real = write_npy(tmp_path / "real.npy", digits(1, 6, side=6))
    with pytest.raises(UserError, match=r"0002.png: is 12x20, not 8x8 as the first picture; give --resize 8"):
        run(made, made)
    images = [Image.fromarray(picture[..., 0]) for picture in pictures]
    images[2] = large
    others = [Image.fromarray(picture[..., 0]) for picture in digits(1, 6, side=6)]
    small = [[np.ravel(i.resize((4, 4), Image.Resampling.BILINEAR)) for i in s] for s in (images, others)]
    expected = frechet_distance(*(moments(np.stack(part)) for part in small))
    results = table(tmp_path / "out.json", made, real, "--resize", 4)["metrics"]["FD-pixels"]["value"]
    assert results == pytest.approx(expected)
    with pytest.raises(UserError, match="--resize must be from 1 to"):
        run(made, real, "--resize", 10**9)


def test_samples_of_archives_are_those_of_arrays(sets, tmp_path):
    made, real, samples, _ = sets
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "made.npz", samples.reshape(30, 4, 4, 1))
        results = table(tmp_path / "out.json", tmp_path / "made.npz", real)
        assert results["metrics"] == table(tmp_path / "out.json", made, real)["metrics"]


def test_statistics_of_files_give_the_frechet_distance_of_their_features(tmp_path, capsys):
    random = np.random.default_rng(0)
    first, second = random.normal(size=(40, 6)), random.normal(1, 2, size=(50, 6))
    expected = frechet_distance(moments(first), moments(second))
    for name, part in (("first", first), ("second", second)):
        write_npy(tmp_path / f"{name}.npy", part)
        np.savez(tmp_path / f"{name}.npz", mu=part.mean(0), sigma=np.cov(part, rowvar=False))
    for pair in (("first.npz", "second.npz"), ("first.npy", "second.npz"), ("first.npz", "second.npy")):
        results = table(tmp_path / "out.json", *(tmp_path / name for name in pair))
        assert list(results["metrics"]) == ["FD-features"]
        assert results["metrics"]["FD-features"]["value"] == pytest.approx(expected)
        assert results["samples"] == (40 if pair[0].endswith("npy") else None)
    assert f"reference: statistics of {tmp_path / 'second.npz'}" in capsys.readouterr().out


def test_statistics_need_a_network_for_the_pictures(sets, tmp_path):
    np.savez(tmp_path / "real.npz", mu=np.zeros(16), sigma=np.eye(16))
    with pytest.raises(UserError, match="add --extractor, such as --extractor inception"):
        run(sets[0], tmp_path / "real.npz")


def test_a_network_sees_each_picture_in_its_own_size(tmp_path):
    """A substitute for a published network: a feature is a picture's width or height."""
    sizes = np.random.default_rng(0).integers(2, 9, (12, 2))
    for name in ("made", "real"):
        (tmp_path / name).mkdir()
        for n, (H, W) in enumerate(sizes if name == "made" else sizes[::-1]):
            Image.new("RGB", (W, H)).save(tmp_path / name / f"{n:02d}.png")

    def make_network(twin, name, weights):
        return lambda pictures: (np.array([p.shape[:2] for p in pictures], np.float32), None), name

    folders = [str(tmp_path / "made"), str(tmp_path / "real")]
    evaluate([*folders, "--extractor", "clip", "--json", str(tmp_path / "o")], no_engine, make_network)
    metrics = json.loads((tmp_path / "o").read_text())["metrics"]
    assert metrics["FD-clip"]["value"] == pytest.approx(0, abs=1e-9)
    assert metrics["nearest"]["value"] == 0


def test_published_references_bring_statistics_beside_their_pictures(sets, tmp_path):
    """guided-diffusion's reference batches hold `arr_0`, `mu` and `sigma`."""
    width, random = 2048, np.random.default_rng(0)
    mean, factor = random.normal(size=width), random.normal(size=(3, width))
    pictures = sets[3].reshape(40, 4, 4, 1)
    np.savez(tmp_path / "r.npz", arr_0=pictures, mu=mean, sigma=factor.T @ factor)

    def make_network(twin, name, weights):
        matrix = np.random.default_rng(1).normal(size=(48, width))
        return lambda batch: (np.stack([p.reshape(-1) / 255.0 for p in batch]) @ matrix, None), name

    out = tmp_path / "o.json"
    words = [sets[0], tmp_path / "r.npz", "--extractor", "inception", "--json", out]
    evaluate(list(map(str, words)), no_engine, make_network)
    metrics = json.loads(out.read_text())["metrics"]
    run_network, _ = make_network("", "", "")
    features, _ = run_network(np.repeat(sets[2].reshape(30, 4, 4, 1), 3, -1))
    first, covariance = moments(features), factor.T @ factor
    expected = np.square(first.mean - mean).sum() + np.square(first.factor).sum() + np.trace(covariance)
    expected -= 2 * np.linalg.svd(first.factor @ factor.T, compute_uv=False).sum()
    assert metrics["FID"]["value"] == pytest.approx(expected)
    assert metrics["FID"]["remark"] == "mu and sigma of a file"
    assert "KID" in metrics
