"""Models that tell foreign pictures from known ones: the part of the Python interface."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import log
from typing import Any, Protocol

import numpy as np

from dioscuri.data.picture_set import array_set
from dioscuri.engine import Array
from dioscuri.errors import UserError, quoted
from dioscuri.evaluation.foreign import KNOWN, ForeignReport, ForeignScores, altered, choose_k, joined
from dioscuri.face.model import BATCH_SIZE
from dioscuri.families.latent_models.bounds import importance_bound, log_weight
from dioscuri.families.latent_models.compressing import CompressingModel
from dioscuri.families.latent_models.exploration import masks_of
from dioscuri.families.latent_models.plan import LatentPlan
from dioscuri.inputs import read_count, read_seed
from dioscuri.metrics.complexity import file_bits

SAMPLES = 4
"""Default number of draws of the latents."""
CHOOSING = 256
"""Most pictures that choose k."""
HELD_BACK = 4
"""Without a validation set, one known picture in so many chooses k, and is not compared."""
LEAST = 2
"""Fewest pictures of a set."""


class Source(Protocol):
    """A set of pictures of which only a batch is read at a time."""

    def __len__(self) -> int: ...

    def gather(self, indices: Array) -> Array:
        """Pictures uint8 (B, H, W, C)."""


@dataclass(frozen=True)
class Draws:
    """Draws of the latents of a picture, and the seed from which they follow."""

    samples: int
    seed: int


class DetectingModel(CompressingModel):
    """A VAE that also tells foreign pictures from those that it knows."""

    does: tuple[str, ...] = (*CompressingModel.does, "detect")

    def detect(
        self,
        known: Any,
        foreign: Any,
        *,
        validation: Any = None,
        k: int | None = None,
        samples: int = SAMPLES,
        seed: int = 0,
        batch_size: int = BATCH_SIZE,
    ) -> ForeignReport:
        """How well the scores of `foreign_scores` tell foreign pictures from known ones.

        `foreign` is one set, or several by name. `k` is the number of the finest levels that the ratio draws
        from the prior. If it is None, known pictures alone choose it: up to 256 of `validation`, or without
        that a quarter of the known ones, which are then not compared. The best k best separates known
        pictures from altered copies of themselves. Sets are pictures, or objects with `len` and
        `gather(indices)`, of which only a batch is in memory at a time.
        """
        how = self._draws(samples, seed)
        named = foreign if isinstance(foreign, Mapping) else {"foreign": foreign}
        if not named or KNOWN in named:
            raise UserError(f"foreign must be a set of pictures, or sets by names other than '{KNOWN}'")
        sets = {KNOWN: known, **named}
        sources = {name: self._source(given, name) for name, given in sets.items()}
        chosen = None if k is None else self._read_k(k)
        compared = choosing = np.arange(len(sources[KNOWN]))
        source = sources[KNOWN]
        table: dict[str, Array] = {}
        size = min(read_count(batch_size, "batch_size"), max(map(len, sources.values())))
        if chosen is None and len(_steps(self.plan)) > 1:
            if validation is None:
                compared, choosing = _held_back(len(source))
            else:
                source = self._source(validation, "validation")
                choosing = np.arange(len(source))
            chosen, table = self._choose(source, _spread(choosing, CHOOSING), how, size)
        made = {
            name: self._scores(each, compared if name == KNOWN else np.arange(len(each)), how, size)
            for name, each in sources.items()
        }
        return ForeignReport(known=made.pop(KNOWN), foreign=made, k=chosen, choice=table)

    def foreign_scores(
        self, pictures: Any, *, samples: int = SAMPLES, seed: int = 0, batch_size: int = BATCH_SIZE
    ) -> ForeignScores:
        """How foreign each picture is, by the likelihood, by the likelihood ratios of Havtorn et al. 2021 and
        by the likelihood less the complexity of the picture (Serra et al. 2020).

        L is the bound: of one sample -ELBO, of several the importance-weighted one; L>k is the mean over the
        samples. Both use the same noise, which follows from the seed and the picture's number alone. So the
        twins agree, and the batch size changes nothing but rounding.
        """
        source = self._source(pictures, "pictures", least=1)
        size = min(read_count(batch_size, "batch_size"), len(source))
        return self._scores(source, np.arange(len(source)), self._draws(samples, seed), size)

    def _draws(self, samples: Any, seed: Any) -> Draws:
        self._pixels("detect")
        return Draws(read_count(samples, "samples"), read_seed(seed))

    def _source(self, given: Any, name: str, least: int = LEAST) -> Source:
        source: Source = given
        if not hasattr(given, "gather"):
            pictures = self._pictures(given, name)
            source = array_set(name, pictures, range(len(pictures)))
        if len(source) < least:
            raise UserError(f"{name}: {len(source)} pictures are too few: give at least {least}")
        return source

    def _read_k(self, k: Any) -> int:
        most = len(_steps(self.plan)) - 1
        if isinstance(k, bool) or not isinstance(k, int | np.integer) or not 1 <= k <= most:
            rule = f"k must be a number of the finest levels, from 1 to {most}, not {quoted(k)}"
            raise UserError(rule if most else "k: the model has a single latent group: leave it out")
        return int(k)

    def _choose(self, source: Source, indices: Array, how: Draws, size: int) -> tuple[int, dict[str, Array]]:
        """The best k and the AUROC of each, from the pictures of these indices."""
        pictures = self._pictures(source.gather(indices))
        numbers, ratios = np.arange(len(pictures)), {}
        for name, given in {KNOWN: pictures, **altered(pictures, how.seed)}.items():
            altered_set = self._source(given, name)
            ratios[name] = self._scores(altered_set, numbers, how, size, files=False).ratio
        return choose_k(ratios.pop(KNOWN), ratios)

    def _scores(
        self, source: Source, indices: Array, how: Draws, size: int, *, files: bool = True
    ) -> ForeignScores:
        """Scores of the pictures of these indices, `size` at once; without `files` those of complexity are
        left out."""
        made = []
        for first in range(0, len(indices), size):
            if self.on_batch is not None:
                self.on_batch(first, len(indices))
            numbers = indices[first : first + size]
            made.append(self._batch_scores(self._pictures(source.gather(numbers)), numbers, how, size, files))
        return joined(made)

    def _batch_scores(
        self, pictures: Array, numbers: Array, how: Draws, size: int, files: bool
    ) -> ForeignScores:
        n = len(pictures)
        rows = np.arange(size) % n  # of one size, so that JAX compiles once
        batch = self._rows(pictures[rows], None, "detect")
        numbered = numbers[rows]
        draws = [self._bounds(batch, self._noise(numbered, how.seed, s)) for s in range(how.samples)]
        bounds = np.mean([bound for bound, _ in draws], 0)[:, :n]
        weights = [weight[:n] for _, weight in draws]
        _check_finite(np.stack([*bounds, *weights]), numbers)
        whole = bounds[0] if how.samples == 1 else -importance_bound(weights)
        ratio = (whole - bounds[1:]).T
        bits = self._file_bits(pictures) if files else np.zeros((2, n))
        png, webp = -whole / log(2) - bits
        return ForeignScores(-whole, ratio, png, webp, numbers)

    def _bounds(self, batch: Mapping[str, Array], noise: Mapping[str, Array]) -> tuple[Array, Array]:
        """L and every L>k (1 + K, B) of one draw, and log p(x, z) - log q(z | x) (B,)."""
        steps = _steps(self.plan)
        bounds, weight = [], np.zeros(())
        for k in range(len(steps)):
            masks = masks_of(self.plan, set().union(*steps[: len(steps) - k]))
            terms = self._network.run("evaluate", batch, noise=noise, masked=True, masks=masks)
            kl = terms["kl"].astype(np.float64).sum(1)
            bounds.append(-terms["reconstruction"].astype(np.float64) - kl)
            weight = weight if k else log_weight(terms)
        return np.stack(bounds), weight

    def _noise(self, numbers: Array, seed: int, draw: int) -> dict[str, Array]:
        """Noise of the pictures with these numbers, each from a generator of its own."""
        specs = self._noise_specs("evaluate", 1, masked=True)
        widths = [int(np.prod(spec.shape)) for spec in specs]
        values = np.stack(
            [
                np.random.default_rng((seed, draw, int(number))).standard_normal(sum(widths), np.float32)
                for number in numbers
            ]
        )
        arrays = np.split(values, np.cumsum(widths)[:-1], axis=1)
        return {
            spec.name: array.reshape(len(numbers), *spec.shape[1:])
            for spec, array in zip(specs, arrays, strict=True)
        }

    def _file_bits(self, pictures: Array) -> Array:
        """Bits (2, N) of the pictures' PNG and WebP files, at the levels that the model knows."""
        pixels = self._pixels("detect")
        seen = pixels.pictures(pixels.levels(pictures).astype(np.uint64))
        return np.array([[file_bits(picture, kind) for picture in seen] for kind in ("PNG", "WEBP")], float)


def _steps(plan: LatentPlan) -> list[set[int]]:
    """The latent groups of every level, coarsest first; in a model of one level, every single group."""
    groups = list(enumerate(plan.groups))
    levels = sorted({block.level for _, block in groups})
    if len(levels) == 1:
        return [{group} for group, _ in groups]
    return [{group for group, block in groups if block.level == level} for level in levels]


def _held_back(n: int) -> tuple[Array, Array]:
    """Numbers of the known pictures that are compared, and of those that choose k."""
    most = min(CHOOSING, n // HELD_BACK)
    if most < LEAST:
        raise UserError(
            f"{KNOWN}: {n} pictures are too few to choose k by a quarter of them: give validation pictures, "
            f"or k, or at least {LEAST * HELD_BACK} known ones"
        )
    choosing = _spread(np.arange(n), most)
    return np.setdiff1d(np.arange(n), choosing), choosing


def _spread(indices: Array, most: int) -> Array:
    """At most so many of them, evenly spaced."""
    places = np.arange(min(most, len(indices))) * len(indices) // min(most, len(indices))
    return indices[places]


def _check_finite(terms: Array, numbers: Array) -> None:
    """Raise a `UserError` that names the first picture whose terms (any, N) are not finite."""
    wrong = ~np.isfinite(terms).all(0)
    if wrong.any():
        raise UserError(
            f"picture {numbers[wrong][0]}: its bound is not finite, because the model's scales overflow: "
            "take another checkpoint, or train again with a lower learning rate"
        )
