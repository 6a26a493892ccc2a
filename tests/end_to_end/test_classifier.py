"""A classifier from its training to evaluation with its features, and invalid options."""

import json

import numpy as np
import pytest
from PIL import Image

from dioscuri.cli.evaluate import evaluate, make_engine
from dioscuri.contract import check_options
from dioscuri.errors import UserError
from dioscuri.metrics.frechet import frechet_distance, moments
from tests.support.tiny_classifier import DIGITS, SMALL, tiny
from tests.support.twins import TWINS, call


@pytest.fixture(scope="module", params=TWINS)
def trained(request, tmp_path_factory):
    """A twin's folder with the trained run `tiny`."""
    twin = tmp_path_factory.mktemp("classifier") / request.param
    call("train", twin, DIGITS, *SMALL)
    return twin


def rows(run, split):
    """The arrays that the mode `features` wrote."""
    return {path.stem: np.load(path) for path in (run / "features" / split).glob("*.npy")}


def test_run_reports_and_writes_features_that_evaluate_reads(trained, tmp_path, capsys):
    run = trained / "logs-tiny"
    report = json.loads((run / "report.json").read_text())
    assert (report["step"], report["test_pictures"]) in {(4, 299), (8, 299)}
    assert 0 <= report["accuracy"] <= 1
    for split in ("test", "train"):
        call("synthesize", trained, DIGITS, *SMALL, f"synthesis.split={split}")
    test, train = (rows(run, split) for split in ("test", "train"))
    assert {name: array.shape for name, array in test.items()} == {
        "features": (40, 6),
        "logits": (40, 10),
        "labels": (40,),
    }
    words = [run / "features" / "test" / "features.npy", run / "features" / "train" / "features.npy"]
    words += ["--logits", words[0].with_name("logits.npy"), "--labels", words[0].with_name("labels.npy")]
    words += ["--reference-labels", words[1].with_name("labels.npy"), "--json", tmp_path / "out.json"]
    evaluate([*map(str, words), "--extractor", "digits"], make_engine)
    actual = json.loads((tmp_path / "out.json").read_text())["metrics"]
    expected = frechet_distance(moments(test["features"]), moments(train["features"]))
    assert actual["FD-digits"]["value"] == pytest.approx(expected)
    assert {"IS-digits", "class agreement"} < set(actual)


def test_folders_are_compared_by_the_classifiers_features(trained, tmp_path, capsys):
    """Pictures of another size are resized; the distance of a set to itself is 0."""
    folder, images = tmp_path / "pictures", np.random.default_rng(0).integers(0, 256, (20, 12, 12), np.uint8)
    folder.mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i}.png")
    words = [folder, folder, "--extractor", trained / "logs-tiny", "--json", tmp_path / "out.json"]
    evaluate([*map(str, words)], make_engine)
    report = json.loads((tmp_path / "out.json").read_text())
    assert report["extractor"].startswith("classifier 'tiny', averaged weights of step ")
    metrics = {name: measure["value"] for name, measure in report["metrics"].items()}
    assert metrics["FD-classifier"] == pytest.approx(0, abs=1e-6)
    assert (metrics["precision"], metrics["recall"], metrics["coverage"]) == (1, 1, 1)
    assert 1 <= metrics["IS-classifier"] <= 10
    assert "FID" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("data.labels=False",), "[data] labels must be True"),
        (("data.num_bits=5",), "[data] num_bits is 5: classifiers use all 8 bits"),
        (("model.widths=[4, 4, 4, 4, 4]",), "cannot be halved 4 times"),
        (("model.widths=[]",), "[model] widths has 0 levels"),
        (("model.widths=[4096, 4096]", "model.n_blocks=100"), "parameters, more than 10,000,000,000"),
        (("data.dataset_source=mnist10k", "data.target_res=32"), "use 'mnist_grey' or 'mnist10k_grey'"),
    ],
)
def test_options_that_do_not_fit_are_named(overrides, message):
    with pytest.raises(UserError) as refused:
        check_options(tiny(*overrides))
    assert message in str(refused.value)


def test_classes_that_the_model_lacks_are_named(tmp_path, capsys):
    with pytest.raises(SystemExit):
        call("train", tmp_path / "torch_impl", DIGITS, *SMALL, "model.num_classes=9")
    assert "num_classes is 9, but digits" in capsys.readouterr().err.lower()
