"""Report of a finished token model: its test cross-entropy, and measures of its samples.

Samples are classified by their three nearest training pictures.
"""

from typing import Any

import numpy as np

from dioscuri.context import Context
from dioscuri.data import Examples, pipeline
from dioscuri.engine import Array
from dioscuri.families.token_models.drawing import can_draw, draw, pictures_of
from dioscuri.families.token_models.evaluation import evaluate
from dioscuri.metrics.distances import nearest_neighbours
from dioscuri.metrics.manifold import compare_manifolds
from dioscuri.metrics.neighbours import majority_vote
from dioscuri.outputs.pictures import sample_rows, save_grid
from dioscuri.outputs.progress import tracked
from dioscuri.outputs.wording import noun

N_REFERENCE, N_TEST = 10_000, 1_000
NEIGHBOURS = 3
N_ON_SHEET = 100


def report(context: Context, plan: Any) -> dict[str, Any]:
    """Print and return the numbers of the engine's averaged weights, and write a sheet of samples."""
    hparams, test = context.hparams, context.sets.test
    size = hparams.val.batch_size
    # Every character of a text begins an example: a subset, evenly spread, is enough.
    n = min(len(test), N_REFERENCE) if hparams.data.dataset_source == "text" else len(test)
    batches = pipeline.evaluation_batches(test, hparams, batch_size=size, limit=n)
    shown = tracked(batches, "test", -(-n // size), shown=context.writes)
    quality = evaluate(context.engine, shown, plan, hparams.val.mask_ratios, ema=True)
    context.say(
        f"{quality.n} test {noun(hparams)}: {quality}; uniform codes have "
        f"{np.log(plan.codebook_size):.4f} nats"
    )
    results: dict[str, Any] = {
        "unit": "nats per hidden token",
        "test_pictures": quality.n,
        "cross_entropy": quality.cross_entropy,
        "accuracy": quality.accuracy,
        "cross_entropy_by_mask_ratio": {f"{ratio:g}": value for ratio, value in quality.by_ratio.items()},
    }
    if can_draw(hparams) and hparams.val.report_samples:
        results |= _samples(context)
    return results


def _samples(context: Context) -> dict[str, float]:
    """Sample `val.report_samples` pictures and measure them."""
    n = context.hparams.val.report_samples
    made = list(draw(context, n, ema=True))
    pictures = np.concatenate([batch["image"] for batch in made])
    labels = np.concatenate([batch["label"] for batch in made]) if "label" in made[0] else None
    results = judged(context, pictures, labels)
    if context.writes:
        shown = sample_rows(pictures[:N_ON_SHEET], None if labels is None else labels[:N_ON_SHEET])
        path = save_grid(context.directory.path / "samples.png", *shown)
        context.say(f"samples: {path}")
    return results


def judged(context: Context, samples: Array, requested: Array | None) -> dict[str, float]:
    """Distances to the nearest training picture, variety, and agreement with the requested classes.

    The same numbers of as many real pictures are given for comparison.
    """
    sets, n = context.sets, len(samples)
    train, train_labels = _reference(context, sets.train, N_REFERENCE)
    test, test_labels = _reference(context, sets.test, N_TEST)
    fresh, _ = _reference(context, sets.validation, n)
    (far, near), (far_test, near_test) = (
        nearest_neighbours(pictures, train, NEIGHBOURS) for pictures in (_flat(samples), test)
    )
    results = {
        "nearest_training_distance_of_samples": float(np.median(far[:, 0])) / 255,
        "nearest_training_distance_of_test_pictures": float(np.median(far_test[:, 0])) / 255,
        "copies": int((far[:, 0] == 0).sum()),
    }
    context.say(
        f"distance to the nearest of {len(train)} training pictures (Euclidean, values from 0 to 1), median: "
        f"{n} samples "
        f"{results['nearest_training_distance_of_samples']:.3f}, test pictures "
        f"{results['nearest_training_distance_of_test_pictures']:.3f}; {results['copies']} samples are copies"
    )
    if min(n, len(fresh), len(test)) > NEIGHBOURS:
        results["recall"] = compare_manifolds(_flat(samples), test, k=NEIGHBOURS).recall
        results["recall_of_validation_pictures"] = compare_manifolds(fresh, test, k=NEIGHBOURS).recall
        context.say(
            f"recall of test pictures: samples {results['recall']:.1%}, as many validation pictures "
            f"{results['recall_of_validation_pictures']:.1%}"
        )
    if requested is not None and train_labels is not None and test_labels is not None:
        results["class_agreement"] = float((majority_vote(train_labels[near]) == requested).mean())
        results["class_agreement_of_test_pictures"] = float(
            (majority_vote(train_labels[near_test]) == test_labels).mean()
        )
        context.say(
            f"class by the {NEIGHBOURS} nearest training pictures: {results['class_agreement']:.1%} of the "
            f"samples have the requested class; of test pictures "
            f"{results['class_agreement_of_test_pictures']:.1%} are classified correctly"
        )
    return results


def _reference(context: Context, examples: Examples, limit: int) -> tuple[Array, Array | None]:
    """Flat pictures (N, D), at most `limit` of them evenly spread, and their labels (N,)."""
    size = context.hparams.synthesis.batch_size
    batches = list(pipeline.evaluation_batches(examples, context.hparams, batch_size=size, limit=limit))
    pictures = np.concatenate([_flat(pictures_of(context, batch)[batch["valid"]]) for batch in batches])
    if "label" not in batches[0]:
        return pictures, None
    return pictures, np.concatenate([batch["label"][batch["valid"]] for batch in batches])


def _flat(pictures: Array) -> Array:
    return pictures.reshape(len(pictures), -1)
