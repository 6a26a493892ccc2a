"""Frechet distance between pictures and their reconstructions, in the features of a network."""

from pathlib import Path
from typing import Any

import numpy as np

from dioscuri.context import Context
from dioscuri.engine import Array
from dioscuri.evaluation.extractors import NETWORKS, Extractor, classifier, network
from dioscuri.evaluation.measures import INCEPTION
from dioscuri.evaluation.pictures import PictureArray
from dioscuri.metrics.frechet import frechet_distance, moments
from dioscuri.twins import twin_module


class ReconstructionDistance:
    """Collects features of both, from the network that `synthesis.extractor` names."""

    def __init__(self, context: Context) -> None:
        options, twin = context.hparams.synthesis, context.engine.name

        def make_network(twin: str, name: str, weights: str) -> Any:
            return twin_module(twin, "extractors").open_network(name, weights)

        def make_engine(_twin: str, hparams: Any) -> Any:
            engine: Any = type(context.engine)
            return engine(hparams)

        self.extractor: Extractor
        if options.extractor in NETWORKS:
            self.extractor = network(options.extractor, options.extractor_weights, twin, make_network)
        else:
            self.extractor = classifier(Path(options.extractor), make_engine)
        self._features: tuple[list[Array], list[Array]] = ([], [])

    @property
    def name(self) -> str:
        """rFID with the Inception network, else rFD-<extractor>."""
        return "rFID" if self.extractor.name == INCEPTION else f"rFD-{self.extractor.name}"

    def add(self, originals: Array, made: Array) -> None:
        """Add pictures uint8 (B, H, W, C) and their reconstructions."""
        for collected, pictures in zip(self._features, (originals, made), strict=True):
            features = self.extractor.of(PictureArray(Path("pictures"), pictures)).features
            assert features is not None
            collected.append(features)

    def value(self) -> float:
        """The distance."""
        first, second = (moments(np.concatenate(arrays)) for arrays in self._features)
        return frechet_distance(first, second)
