"""All metrics of two feature sets."""

from dataclasses import dataclass

import numpy as np

from dioscuri.evaluation.extractors import Features
from dioscuri.metrics.distances import nearest_neighbours
from dioscuri.metrics.frechet import frechet_distance
from dioscuri.metrics.inception_score import inception_score
from dioscuri.metrics.kernel import kernel_distance
from dioscuri.metrics.manifold import compare_manifolds

Array = np.ndarray

INCEPTION = "inception"
INCEPTION_WIDTH = 2048
SUBSETS, SUBSET_SIZE = 100, 1000
SPLITS = 10


@dataclass(frozen=True)
class Measure:
    """A number, its standard deviation over subsets or splits, and a remark on how it was computed."""

    name: str
    value: float
    deviation: float | None = None
    remark: str = ""


def measures(samples: Features, reference: Features, extractor: str, *, k: int, seed: int) -> list[Measure]:
    """Distances, ratios and, with logits, the score of the samples. Distances are called FID and KID for
    Inception's features only. Statistics alone give only the Frechet distance."""
    inception = extractor == INCEPTION
    remark = "mu and sigma of a file" if samples.gaussian or reference.gaussian else ""
    distance = frechet_distance(samples.moments, reference.moments)
    results = [Measure("FID" if inception else f"FD-{extractor}", distance, remark=remark)]
    if samples.features is not None and reference.features is not None:
        results += _of_examples(samples.features, reference.features, extractor, k=k, seed=seed)
    if samples.logits is not None:
        splits = min(SPLITS, len(samples.logits))
        score = inception_score(samples.logits, splits=splits, seed=seed)
        results.append(
            Measure("IS" if inception else f"IS-{extractor}", *score, f"{splits} splits of the samples")
        )
    return results


def _of_examples(first: Array, second: Array, extractor: str, *, k: int, seed: int) -> list[Measure]:
    size = min(SUBSET_SIZE, len(first), len(second))
    kernel = kernel_distance(first, second, subsets=SUBSETS, subset_size=size, seed=seed)
    ratios = compare_manifolds(first, second, k=k)
    neighbours = f"{k} nearest neighbours"
    nearest, _ = nearest_neighbours(first, second, 1)
    name = "KID" if extractor == INCEPTION else f"KD-{extractor}"
    return [
        Measure(name, *kernel, f"cubic kernel, {SUBSETS} subsets of {size}"),
        Measure("precision", ratios.precision, remark=neighbours),
        Measure("recall", ratios.recall, remark=neighbours),
        Measure("density", ratios.density, remark=neighbours),
        Measure("coverage", ratios.coverage, remark=neighbours),
        Measure("nearest", float(np.median(nearest)), remark="median distance to the nearest of REFERENCE"),
    ]
