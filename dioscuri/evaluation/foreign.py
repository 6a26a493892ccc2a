"""Scores that tell foreign pictures from known ones, and the choice of the ratio's depth.

Higher scores are more foreign, whatever the score.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from einops import rearrange

from dioscuri.metrics.separation import Separation, separation

Array = np.ndarray

KNOWN = "known"
"""Name of the set of known pictures."""
_TILES = 4
"""Per side of a picture cut into tiles."""
_SPECKLE = 0.35
"""Standard deviation of multiplicative noise."""


@dataclass(frozen=True)
class ForeignScores:
    """Scores of N pictures; higher ones are more foreign.

    `likelihood` (N,) is -log p(x) in nats, as far as the bound tells. `ratio` (N, K) is LLR>k of Havtorn et
    al. 2021 in nats for k = 1 ... K. `png` and `webp` (N,) are the scores of Serra et al. 2020, equation 1,
    -log2 p(x) less the bits of the picture's lossless file. `index` (N,) is the number of each picture in its
    set.
    """

    likelihood: Array
    ratio: Array
    png: Array
    webp: Array
    index: Array

    def __len__(self) -> int:
        return len(self.index)

    @property
    def complexity(self) -> Array:
        """The score of the shorter of both files (N,)."""
        shorter: Array = np.maximum(self.png, self.webp)
        return shorter

    def columns(self) -> dict[str, Array]:
        """All scores (N,) by name."""
        ratios = {f"ratio_{k}": column for k, column in enumerate(self.ratio.T, 1)}
        files = {"complexity_png": self.png, "complexity_webp": self.webp}
        return {"likelihood": self.likelihood, **ratios, **files, "complexity": self.complexity}


def joined(batches: Sequence[ForeignScores]) -> ForeignScores:
    """The scores of all batches."""
    names = [field.name for field in fields(ForeignScores)]
    return ForeignScores(**{name: np.concatenate([getattr(b, name) for b in batches]) for name in names})


@dataclass(frozen=True)
class ForeignReport:
    """Scores of known pictures and of each foreign set.

    `k` is the number of the finest levels whose latents the ratio draws from the prior, None if the model has
    a single group. `choice` holds, for every set of altered known pictures, the AUROC (K,) of each k, if they
    chose it.
    """

    known: ForeignScores
    foreign: Mapping[str, ForeignScores]
    k: int | None
    choice: Mapping[str, Array]

    def shown(self) -> tuple[str, ...]:
        """Names of the scores to compare: of the ratios the chosen one alone."""
        ratio = () if self.k is None else (f"ratio_{self.k}",)
        return ("likelihood", *ratio, "complexity_png", "complexity_webp", "complexity")

    def separations(self) -> dict[str, dict[str, Separation]]:
        """How every score separates every foreign set from the known pictures."""
        known = self.known.columns()
        return {
            name: {score: separation(known[score], column) for score, column in scores.columns().items()}
            for name, scores in self.foreign.items()
        }

    def rows(self) -> Iterator[dict[str, Any]]:
        """The scores of one picture after the other, with its set and its number there."""
        for name, scores in {KNOWN: self.known, **self.foreign}.items():
            columns = {"index": scores.index, **scores.columns()}
            for values in zip(*(column.tolist() for column in columns.values()), strict=True):
                yield {"set": name, **dict(zip(columns, values, strict=True))}


def altered(pictures: Array, seed: int) -> dict[str, Array]:
    """Stand-ins for foreign pictures, made of known ones uint8 (N, H, W, C), N >= 2: means of two pictures,
    pictures cut into 16 tiles in another order, and pictures with multiplicative noise, three of the
    validation distributions of Hendrycks et al. 2019."""
    rng = np.random.default_rng(seed)
    return {name: make(pictures, rng) for name, make in _ALTERATIONS.items()}


def choose_k(known: Array, stand_ins: Mapping[str, Array]) -> tuple[int, dict[str, Array]]:
    """The k of the best ratio and the AUROC (K,) by stand-in, from the ratios (N, K) of known pictures and of
    their stand-ins: that of the highest mean AUROC, of equal ones the smallest."""
    table = {
        name: np.array([separation(*pair).auroc for pair in zip(known.T, ratios.T, strict=True)])
        for name, ratios in stand_ins.items()
    }
    return int(np.mean([*table.values()], axis=0).argmax()) + 1, table


def _means(pictures: Array, _rng: np.random.Generator) -> Array:
    both = pictures.astype(np.uint16) + np.roll(pictures, 1, axis=0)
    means: Array = (both // 2).astype(np.uint8)
    return means


def _tiles(pictures: Array, rng: np.random.Generator) -> Array:
    """Every picture in an order of its own; pixels that no tile covers remain."""
    _, H, W, _ = pictures.shape
    rows, columns = min(_TILES, H), min(_TILES, W)
    made = pictures.copy()
    inside = made[:, : H - H % rows, : W - W % columns]
    tiles = rearrange(inside, "n (r h) (k w) c -> n (r k) h w c", r=rows, k=columns)
    mixed = np.stack([rng.permutation(each) for each in tiles])
    inside[:] = rearrange(mixed, "n (r k) h w c -> n (r h) (k w) c", r=rows)
    return made


def _speckles(pictures: Array, rng: np.random.Generator) -> Array:
    noise = rng.normal(1, _SPECKLE, pictures.shape)
    noisy: Array = np.rint((pictures * noise).clip(0, 255)).astype(np.uint8)
    return noisy


_ALTERATIONS: dict[str, Callable[[Array, np.random.Generator], Array]] = {
    "means of two": _means,
    "tiles": _tiles,
    "speckles": _speckles,
}
