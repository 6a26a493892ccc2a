"""From pictures to features: their pixels, or what a network computes of them: a classifier of this project,
the Inception network of FID, DINOv2 or CLIP."""

from collections.abc import Callable
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
from dioscuri.run.evaluation.pictures import BATCH, Pictures, Shape
from dioscuri.run.restore import load_best

Array = np.ndarray
MakeEngine = Callable[[str, Any], Engine]
"""From a twin, 'torch' or 'jax', and the options of a run to its engine."""
Network = Callable[[Array], tuple[Array, Array | None]]
"""From pictures uint8 (B, H, W, 3) to features (B, D) and, where it has any, logits (B, K)."""
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
    """Of N pictures: features (N, D) and, where a classifier has made them, logits (N, K)."""

    features: Array
    logits: Array | None = None


@dataclass(frozen=True)
class Extractor:
    """`extract` takes uint8 (B, H, W, C) of `shape`, None: RGB of the set's own size; `resizes`: pictures of
    other sizes are welcome."""

    name: str
    description: str
    shape: Shape | None
    resizes: bool
    extract: Callable[[Array], Features]

    def of(self, pictures: Pictures) -> Features:
        """Features of all pictures."""
        shape = self.shape or (*pictures.shape[:2], 3)
        parts = [self.extract(batch) for batch in pictures.batches(shape, resize=self.resizes)]
        logits = [part.logits for part in parts if part.logits is not None]
        features = np.concatenate([part.features for part in parts])
        return Features(features, np.concatenate(logits) if logits else None)


def pixels(samples: Pictures, reference: Pictures) -> Extractor:
    """Values 0 ... 255 as they are; RGB where one of the sets has colours."""
    H, W, C = samples.shape
    shape = (H, W, max(C, reference.shape[2]))
    if (size := H * W * shape[2]) > MAX_PIXELS:
        raise UserError(
            f"{samples.path}: pictures of {size} values are too large to be compared pixel by pixel (at most "
            f"{MAX_PIXELS}); give a classifier, --extractor RUN"
        )
    flat = lambda batch: Features(batch.reshape(len(batch), -1))  # noqa: E731
    return Extractor(PIXELS, "pixels, 0 ... 255", shape, resizes=False, extract=flat)


def network(name: str, weights: str, twin: str, make_network: MakeNetwork) -> Extractor:
    """A published network, one of `NETWORKS`; it resizes pictures by itself."""
    run, description = make_network(twin, name, weights)

    def extract(pictures: Array) -> Features:
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
    checkpoint = load_best(context)

    def extract(pictures: Array) -> Features:
        # Filled up by repetition: batches of one shape are compiled once.
        filled = pictures[np.arange(BATCH) % len(pictures)]
        made = engine.run("encode", {"image": filled}, ema=True, step=0)
        return Features(*(made[name][: len(pictures)] for name in ("features", "logits")))

    data = hparams.data
    return Extractor(
        name=CLASSIFIER,
        description=f"classifier '{hparams.run.name}', averaged weights of step {checkpoint.step}",
        shape=(data.target_res, data.target_res, data.channels),
        resizes=True,
        extract=extract,
    )
