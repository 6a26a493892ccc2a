"""From pictures to features: pixels, or the features of a classifier of this project, of FID's Inception
network, of DINOv2 or of CLIP."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from dioscuri.checkpoint.directory import RunDirectory
from dioscuri.checkpoint.trained_run import open_run
from dioscuri.context import Context
from dioscuri.data import open_datasets
from dioscuri.data.classes import read_classes
from dioscuri.engine import Engine, InferenceEngine
from dioscuri.errors import UserError
from dioscuri.evaluation.pictures import BATCH, Pictures, Shape
from dioscuri.metrics.frechet import Moments, moments
from dioscuri.restore import load_weights

Array = np.ndarray
MakeEngine = Callable[[str, Any], InferenceEngine]
"""From a twin ('torch' or 'jax') and the options of a run to an engine."""
Network = Callable[[Sequence[Array]], tuple[Array, Array | None]]
"""From B pictures uint8 (H, W, 3) of any size to features (B, D) and, if the
network has any, logits (B, K)."""
MakeNetwork = Callable[[str, str, str], tuple[Network, str]]
"""From a twin, a network's name and the path of its weights (or '') to the network and its description."""

MAX_PIXELS = 4096
STEP = 32
"""Batch size of a published network."""
PIXELS = "pixels"
CLASSIFIER = "classifier"
NETWORKS = ("inception", "dinov2", "clip")


@dataclass(frozen=True)
class Features:
    """Features (N, D) of N pictures and, from a classifier, logits (N, K); or only a Gaussian of features.
    With both, the Gaussian is used for the Frechet distance."""

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
    """`extract` takes uint8 (B, H, W, C) of `shape` or, if that is None, RGB pictures of any size. `resizes`:
    pictures of other sizes than `shape` are resized to it."""

    name: str
    description: str
    shape: Shape | None
    resizes: bool
    extract: Callable[[Any], Features]

    def of(self, pictures: Pictures) -> Features:
        """Features of all pictures."""
        shape = self.shape
        batches = pictures.lists(3) if shape is None else pictures.batches(shape, resize=self.resizes)
        results = [self.extract(batch) for batch in batches]
        logits = [result.logits for result in results if result.logits is not None]
        features = np.concatenate([result.features for result in results if result.features is not None])
        return Features(features, np.concatenate(logits) if logits else None)


def pixels(samples: Pictures, reference: Pictures) -> Extractor:
    """Pixel values 0 ... 255; RGB if any picture of the two sets has colours."""
    H, W = samples.size
    shape = (H, W, max(samples.channels, reference.channels))
    if (size := H * W * shape[2]) > MAX_PIXELS:
        what = f"{'clips' if samples.clip else 'pictures'} of {size} values"
        instead = "" if samples.clip else "; give a classifier with --extractor RUN, or a smaller --resize"
        raise UserError(
            f"{samples.path}: {what} are too large to compare by pixels (at most {MAX_PIXELS}){instead}"
        )
    flat = lambda batch: Features(batch.reshape(len(batch), -1))  # noqa: E731
    return Extractor(PIXELS, "pixels, 0 ... 255", shape, resizes=False, extract=flat)


def network(name: str, weights: str, twin: str, make_network: MakeNetwork) -> Extractor:
    """A published network, one of `NETWORKS`, which resizes pictures itself."""
    run, description = make_network(twin, name, weights)

    def extract(pictures: Sequence[Array]) -> Features:
        results = [run(pictures[first : first + STEP]) for first in range(0, len(pictures), STEP)]
        logits = [batch for _, batch in results if batch is not None]
        return Features(
            np.concatenate([batch for batch, _ in results]), np.concatenate(logits) if logits else None
        )

    return Extractor(name=name, description=description, shape=None, resizes=False, extract=extract)


def classifier(path: Path, make_engine: MakeEngine) -> Extractor:
    """The classifier of a run folder, with averaged weights, in the folder's twin."""
    path = path.absolute()
    hparams = open_run(path, CLASSIFIER, f"--extractor '{path}'")
    hparams = replace(hparams, run=replace(hparams.run, num_gpus=min(hparams.run.num_gpus, 1)))
    engine = make_engine("jax" if path.parent.name == "jax_impl" else "torch", hparams)
    sets = open_datasets(hparams, read_classes(path))
    context = Context(hparams, RunDirectory(path), sets, cast("Engine", engine))
    checkpoint = load_weights(context, averaged=True)

    def extract(pictures: Array) -> Features:
        # Pad by repetition, so that only one batch shape is compiled.
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
