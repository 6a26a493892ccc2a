"""From pictures to features: their pixels, or a network's features: a classifier of this project,
the Inception network of FID, DINOv2 or CLIP."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dioscuri.checkpoint.directory import RunDirectory
from dioscuri.checkpoint.trained_run import open_run
from dioscuri.context import Context
from dioscuri.data import open_datasets
from dioscuri.data.classes import read_classes
from dioscuri.engine import Engine
from dioscuri.errors import UserError
from dioscuri.evaluation.pictures import BATCH, Pictures, Shape
from dioscuri.metrics.frechet import Moments, moments
from dioscuri.restore import load_best

Array = np.ndarray
MakeEngine = Callable[[str, Any], Engine]
"""From a twin, 'torch' or 'jax', and the options of a run to its engine."""
Network = Callable[[Sequence[Array]], tuple[Array, Array | None]]
"""From B pictures uint8 (H, W, 3) of any sizes to features (B, D) and, where it has any, logits (B, K)."""
MakeNetwork = Callable[[str, str, str], tuple[Network, str]]
"""From a twin, the name of a network and where its weights are, if anywhere, to it and what it is."""

MAX_PIXELS = 4096
STEP = 32
"""Pictures that a published network gets at once."""
PIXELS = "pixels"
CLASSIFIER = "classifier"
NETWORKS = ("inception", "dinov2", "clip")


@dataclass(frozen=True)
class Features:
    """Of N pictures: features (N, D) and, where a classifier has made them, logits (N, K); or a Gaussian of
    features alone. Where both are there the Frechet distance is that of the Gaussian."""

    features: Array | None
    logits: Array | None = None
    gaussian: Moments | None = None

    def __len__(self) -> int:
        return 0 if self.features is None else len(self.features)

    @property
    def width(self) -> int:
        """D."""
        rows = self.gaussian.mean[None] if self.features is None and self.gaussian else self.features
        assert rows is not None
        return int(rows.shape[1])

    @property
    def moments(self) -> Moments:
        """Mean and covariance."""
        if self.gaussian is not None:
            return self.gaussian
        assert self.features is not None
        return moments(self.features)


@dataclass(frozen=True)
class Extractor:
    """`extract` takes uint8 (B, H, W, C) of `shape`; or, where that is None, RGB pictures of any sizes.
    `resizes`: pictures of other sizes than `shape` are welcome."""

    name: str
    description: str
    shape: Shape | None
    resizes: bool
    extract: Callable[[Any], Features]

    def of(self, pictures: Pictures) -> Features:
        """Features of all pictures."""
        shape = self.shape
        batches = pictures.lists(3) if shape is None else pictures.batches(shape, resize=self.resizes)
        parts = [self.extract(batch) for batch in batches]
        logits = [part.logits for part in parts if part.logits is not None]
        features = np.concatenate([part.features for part in parts if part.features is not None])
        return Features(features, np.concatenate(logits) if logits else None)


def pixels(samples: Pictures, reference: Pictures) -> Extractor:
    """Values 0 ... 255 as they are; RGB if any picture of the two sets has colours."""
    H, W = samples.size
    shape = (H, W, max(samples.channels, reference.channels))
    if (size := H * W * shape[2]) > MAX_PIXELS:
        raise UserError(
            f"{samples.path}: pictures of {size} values are too large to compare by pixels (at most "
            f"{MAX_PIXELS}); give a classifier with --extractor RUN, or a smaller --resize"
        )
    flat = lambda batch: Features(batch.reshape(len(batch), -1))  # noqa: E731
    return Extractor(PIXELS, "pixels, 0 ... 255", shape, resizes=False, extract=flat)


def network(name: str, weights: str, twin: str, make_network: MakeNetwork) -> Extractor:
    """A published network, one of `NETWORKS`; it resizes pictures by itself."""
    run, description = make_network(twin, name, weights)

    def extract(pictures: Sequence[Array]) -> Features:
        parts = [run(pictures[first : first + STEP]) for first in range(0, len(pictures), STEP)]
        logits = [part for _, part in parts if part is not None]
        return Features(
            np.concatenate([part for part, _ in parts]), np.concatenate(logits) if logits else None
        )

    return Extractor(name=name, description=description, shape=None, resizes=False, extract=extract)


def classifier(path: Path, make_engine: MakeEngine) -> Extractor:
    """The classifier of a run folder, with averaged weights; the folder's twin computes."""
    path = path.absolute()
    hparams = open_run(path, CLASSIFIER, f"--extractor '{path}'")
    hparams = replace(hparams, run=replace(hparams.run, num_gpus=min(hparams.run.num_gpus, 1)))
    engine = make_engine("jax" if path.parent.name == "jax_impl" else "torch", hparams)
    context = Context(hparams, RunDirectory(path), open_datasets(hparams, read_classes(path)), engine)
    checkpoint = load_best(context, averaged=True)

    def extract(pictures: Array) -> Features:
        # Filled up by repetition: batches of one shape are compiled once.
        filled = pictures[np.arange(BATCH) % len(pictures)]
        made = engine.run("encode", {"image": filled}, ema=True, step=0)
        return Features(made["features"][: len(pictures)], made["logits"][: len(pictures)])

    data = hparams.data
    return Extractor(
        name=CLASSIFIER,
        description=f"classifier '{hparams.run.name}', averaged weights of step {checkpoint.step}"
        + (", which sees grey only" if data.channels == 1 else ""),
        shape=(data.target_res, data.target_res, data.channels),
        resizes=True,
        extract=extract,
    )
