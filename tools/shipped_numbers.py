"""Numbers of shipped models: those of their cards, and one of each that a test measures again."""

import json
from contextlib import redirect_stdout
from dataclasses import replace
from functools import cache
from importlib import import_module
from os import devnull
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

from dioscuri.cli.evaluate import main as evaluate
from dioscuri.data.sources import DataSets, open_datasets
from dioscuri.evaluation.judged import class_agreement
from dioscuri.hparams import load
from dioscuri.library.sources import shipped
from dioscuri.metrics.baselines import histogram_bound, nearest_distances
from dioscuri.metrics.psnr import psnr
from dioscuri.metrics.ssim import ssim
from dioscuri.outputs.wording import noun
from dioscuri.places import examples

Array = np.ndarray
Row = tuple[str, str]

N_SAMPLES = 500
N_CHECKED = 20
COPY = 1e-6
"""Samples nearer to a training picture than this are copies, for values from 0 to 1."""
GREY = {"dataset_source": "mnist10k_grey", "target_res": 28}
METRICS = {"FD-pixels": ",.0f", "precision": ".3f", "recall": ".3f", "density": ".3f", "coverage": ".3f"}
"""Metrics of `dioscuri evaluate` in a card, with their formats."""


def rows_of(card: Path) -> dict[str, str]:
    """First and second cells of the rows of a card's tables, in order."""
    lines = [line for line in card.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {first: second for first, second, *_ in cells}


# The check: cheap, without downloads, the same in both twins.


def check(model: Any) -> Row:
    """A number that needs no data but what scikit-learn and scikit-image contain, with recorded noise."""
    if "classify" in model.does:
        pictures, labels = digits28()
        share = np.mean(model.classify(pictures) == labels)
        return (
            f"check: of {len(labels)} digits of scikit-learn, enlarged to 28x28, classified right",
            f"{share:.3f}",
        )
    if "generate" not in model.does:
        pictures = _check_pictures(model)
        value = psnr(pictures, model.reconstruct(pictures)).mean()
        return f"check: PSNR of {len(pictures)} {_check_data(model)}, dB", f"{value:.3f}"
    if "bound" in model.does:
        return _check_bound(model)
    return _check_classes(model) if model.num_classes else _check_distance(model)


def _check_bound(model: Any) -> Row:
    pictures = _check_pictures(model)
    if model.plan.likelihood == "bernoulli":
        pictures = (pictures > 127) * np.uint8(255)
    n = len(pictures)
    classes = digits()[1][:n] if model.num_classes else None
    # `bound` takes no noise, and `score` needs a second program, which takes JAX seconds to compile.
    rows, _ = model._scored(pictures, classes, (), "check")
    noise = model.draw_noise("evaluate", n)
    terms = model._run("evaluate", rows, noise=noise, seed=0, batch_size=n)
    value = (terms["reconstruction"] + terms["kl"].sum(1)).mean()
    return f"check: -ELBO of {n} {_check_data(model)}, recorded noise, nats", f"{value:.3f}"


def _check_distance(model: Any) -> Row:
    source = pictures_of(model)
    test = source.test.gather(np.arange(len(source.test)))
    value = nearest_distances(_flat(_drawn(model)), _flat(test)).mean()
    return (
        f"check: distance of {N_CHECKED} samples, recorded noise, to the nearest test picture, mean",
        f"{value:.3f}",
    )


def _check_classes(model: Any) -> Row:
    asked = np.arange(N_CHECKED) % model.num_classes
    made = _drawn(model, classes=asked)
    if model.picture_shape == (8, 8, 1):
        pictures, labels = digits()
        share = class_agreement(_flat(made), asked, _flat(pictures), labels, k=3)
        judge = "the 3 nearest digits of scikit-learn"
    else:
        if model.picture_shape[0] == 14:
            made = made.repeat(2, 1).repeat(2, 2)
        judge = "mnist10k-classifier"
        share = np.mean(_shipped(judge, model.twin).classify(made) == asked)
    return f"check: of {N_CHECKED} samples, recorded noise, recognised by {judge}", f"{share:.3f}"


def _drawn(model: Any, **asked: Any) -> Array:
    few = {"steps": 4} if model.family == "maskgit" else {}  # JAX compiles every step
    drawn: Array = model.generate(
        N_CHECKED, noise=model.draw_noise("generate", N_CHECKED, **few), **asked, **few
    )
    return drawn


def _check_data(model: Any) -> str:
    name = picture_model(model).hparams.data.dataset_source
    if "mnist" not in name:
        return f"test {noun(picture_model(model).hparams)}"
    return "digits of scikit-learn, enlarged to 28x28" + (" and binarised" if name == "mnist10k" else "")


def _check_pictures(model: Any) -> Array:
    if "mnist" in picture_model(model).hparams.data.dataset_source:
        return digits28()[0][:N_CHECKED]
    return pictures_of(model).test.gather(np.arange(N_CHECKED))


@cache
def digits() -> tuple[Array, Array]:
    """Test digits of scikit-learn and their classes."""
    test = open_datasets(load(examples() / "vqgan" / "digits.cfg")).test
    return test.gather(np.arange(len(test))), np.asarray(test.labels)


@cache
def digits28() -> tuple[Array, Array]:
    """The same, 20 pixels high in pictures of 28x28 as MNIST's are."""
    pictures, labels = digits()
    large = [
        Image.fromarray(picture[..., 0]).resize((20, 20), Image.Resampling.BICUBIC) for picture in pictures
    ]
    return np.pad(np.stack(large), ((0, 0), (4, 4), (4, 4)))[..., None], labels


@cache
def _shipped(name: str, twin: str) -> Any:
    return import_module(f"dioscuri.{twin}").load(shipped()[name])


# The card's numbers, on the test pictures.


def measured(model: Any, data: Path) -> list[Row]:
    """What a card says of a model."""
    source = pictures_of(model, data)
    test = source.test.gather(np.arange(len(source.test)))
    if "classify" in model.does:
        return [
            ("accuracy on the test pictures", f"{np.mean(model.classify(test) == source.test.labels):.1%}")
        ]
    if "generate" not in model.does:
        made = model.reconstruct(test)
        used = np.bincount(model.encode(test).ravel(), minlength=model.codebook_size) / 1.0
        share = used[used > 0] / used.sum()
        return [
            ("PSNR of the test pictures' reconstructions, dB", f"{psnr(test, made).mean():.1f}"),
            ("their SSIM", f"{ssim(test, made).mean():.3f}"),
            (
                "codes used, of all; perplexity",
                f"{np.mean(used > 0):.0%}; {np.exp(-(share * np.log(share)).sum()):.0f}",
            ),
        ]
    return [*(_bound(model, test, source) if "bound" in model.does else []), *_samples(model, data)]


def _bound(model: Any, test: Array, source: DataSets) -> list[Row]:
    what = f"the test {noun(model.hparams)}"
    conditions: list[tuple[str, Any]] = [("", source.test.labels if model.num_classes else None)]
    conditions += [(" without their classes", None)] if model.num_classes else []
    rows = []
    for words, classes in conditions:
        bound = model.bound(test, classes=classes, seed=0)
        if model.plan.likelihood == "bernoulli":
            rows.append((f"-ELBO of {what}{words}, nats", f"{-bound.elbo.mean():.1f}"))
        else:
            rows.append((f"bound of {what}{words}, bits/dim", f"{bound.bits_per_dim:.3f}"))
    return rows if model.plan.likelihood == "bernoulli" else [*rows, _histogram(model, test, source)]


def _histogram(model: Any, test: Array, source: DataSets) -> Row:
    """The bound of a histogram of every pixel."""
    n_levels = 2 ** int(model.hparams.data.num_bits)
    train = source.train.gather(np.arange(len(source.train)))
    nats = histogram_bound(*(_flat(some) // (256 // n_levels) for some in (train, test)), n_levels)
    return "bound of a histogram of every pixel, bits/dim", f"{nats / np.log(2) / test[0].size:.3f}"


def _samples(model: Any, data: Path) -> list[Row]:
    """`dioscuri evaluate` against test pictures: of samples, and of as many training pictures.

    Pixels of a binarised model's samples are probabilities, which grey levels were before: it is judged by
    the grey digits.
    """
    binarised = picture_model(model).hparams.data.dataset_source == "mnist10k"
    source, what = pictures_of(model, data, **GREY if binarised else {}), noun(picture_model(model).hparams)
    test = source.test.gather(np.arange(len(source.test)))
    n, n_classes = min(N_SAMPLES, len(test)), getattr(model, "num_classes", 0)
    spread = np.linspace(0, len(source.train) - 1, n).astype(int)
    train = source.train.gather(np.arange(len(source.train)))
    made, asked = model.generate(n, seed=0), np.arange(n) % max(n_classes, 1)
    ours, theirs = evaluated(made, test), evaluated(train[spread], test)
    rows = [
        (f"{name} of {n} samples (of {n} training {what})", f"{ours[name]:{form}} ({theirs[name]:{form}})")
        for name, form in METRICS.items()
    ]
    rows.append(_nearest(made, test, train, what))
    if n_classes:
        labels = np.asarray(source.train.labels)
        shares = [
            class_agreement(_flat(some), classes, _flat(train), labels, k=3)
            for some, classes in ((made, asked), (test, np.asarray(source.test.labels)))
        ]
        what = "class agreement by the 3 nearest training pictures (of the test pictures)"
        rows.append((what, f"{shares[0]:.1%} ({shares[1]:.1%})"))
    return rows


def _nearest(made: Array, test: Array, train: Array, what: str) -> Row:
    distances = [nearest_distances(_flat(some), _flat(train)) for some in (made, test)]
    copies = np.count_nonzero(distances[0] < COPY)
    return (
        f"distance of a sample to the nearest training {what[:-1]} (of a test {what[:-1]}), mean; copies",
        f"{distances[0].mean():.3f} ({distances[1].mean():.3f}); {copies} of {len(made)}",
    )


def evaluated(samples: Array, reference: Array, *options: str) -> dict[str, float]:
    """The metrics of `dioscuri evaluate`."""
    with TemporaryDirectory() as folder, Path(devnull).open("w") as silent, redirect_stdout(silent):
        paths = [Path(folder, f"{name}.npy") for name in ("samples", "reference")]
        for path, pictures in zip(paths, (samples, reference), strict=True):
            np.save(path, pictures)
        evaluate([*map(str, paths), *options, "--json", f"{folder}/numbers.json"])
        metrics = json.loads(Path(folder, "numbers.json").read_text())["metrics"]
    return {name: entry["value"] for name, entry in metrics.items()}


def pictures_of(model: Any, data: Path = Path(), **changes: Any) -> DataSets:
    """The pictures that the model, or its tokenizer, was trained on; `data` is the folder of data sets.
    `changes` are other options of `[data]`."""
    hparams = picture_model(model).hparams
    options = replace(hparams.data, dataset_path=str(data), **changes)
    return open_datasets(replace(hparams, data=options))


def picture_model(model: Any) -> Any:
    """The model that saw the pictures: the model, or its tokenizer."""
    return model if model.tokenizer is None else model.tokenizer


def _flat(pictures: Array) -> Array:
    return pictures.reshape(len(pictures), -1)
