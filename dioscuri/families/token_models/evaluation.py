"""Cross-entropy and accuracy on hidden (masked or replaced) tokens, the same ones in every evaluation."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dioscuri.data.randomness import words
from dioscuri.engine import Array, Batch, Engine

MASK_SEED = 20220208
"""Seed of the evaluation masks, the same in every run and in both twins."""


@dataclass(frozen=True)
class Quality:
    """Means over `n` pictures: cross-entropy in nats per hidden token, and the fraction of hidden tokens
    whose most likely code is right. `by_ratio` has the cross-entropy for each fraction of hidden tokens."""

    n: int
    cross_entropy: float
    accuracy: float
    by_ratio: dict[float, float]

    def __str__(self) -> str:
        return f"cross-entropy {self.cross_entropy:.4f} nats per hidden token, accuracy {self.accuracy:.1%}"


@dataclass
class QualitySum:
    """Sums terms over padded batches, counting every picture once."""

    _ratios: list[Array] = field(default_factory=list)
    _cross_entropy: list[Array] = field(default_factory=list)
    _accuracy: list[Array] = field(default_factory=list)

    def add(self, results: Batch, ratios: Array, valid: Array) -> None:
        """Add `cross_entropy` and `accuracy` (B,) where `valid` (B,) is true."""
        self._ratios.append(ratios[valid])
        self._cross_entropy.append(results["cross_entropy"][valid].astype(np.float64))
        self._accuracy.append(results["accuracy"][valid].astype(np.float64))

    def mean(self) -> Quality:
        """The means so far."""
        ratios, losses = np.concatenate(self._ratios), np.concatenate(self._cross_entropy)
        return Quality(
            n=len(losses),
            cross_entropy=float(losses.mean()),
            accuracy=float(np.concatenate(self._accuracy).mean()),
            by_ratio={float(ratio): float(losses[ratios == ratio].mean()) for ratio in np.unique(ratios)},
        )


def evaluation_masks(indices: Array, ratios: Array, n_tokens: int) -> Array:
    """Masks (B, L), True at round(ratio * L) tokens, at least one, which depend only on a picture's index."""
    bits = words(MASK_SEED, "validation", indices, n_tokens)
    ranks = bits.argsort(1, kind="stable").argsort(1, kind="stable")
    counts = np.clip(np.rint(ratios * n_tokens), 1, n_tokens)
    masks: Array = ranks < counts[:, None]
    return masks


def evaluate(
    engine: Engine,
    batches: Iterable[Batch],
    plan: Any,
    ratios: Sequence[float],
    *,
    ema: bool,
    on_batch: Callable[[], None] = lambda: None,
) -> Quality:
    """Evaluate padded batches, cycling over the pictures through the fractions `ratios` of hidden tokens."""
    total, done = QualitySum(), 0
    for index, batch in enumerate(batches):
        rows = done + np.arange(len(batch["valid"]))
        chosen = np.asarray(ratios)[rows % len(ratios)]
        given = examples(batch) | {"mask": evaluation_masks(batch["index"], chosen, plan.n_tokens)}
        if plan.replacements:
            bits = words(MASK_SEED, "test", batch["index"], plan.n_tokens)
            given["replacement"] = (bits % plan.replacements).astype(np.int32)
        total.add(engine.run("evaluate", given, ema=ema, step=index), chosen, batch["valid"])
        done += len(rows)
        on_batch()
    return total.mean()


def examples(batch: Batch) -> dict[str, Array]:
    """The entries of a batch that a model reads."""
    return {name: array for name, array in batch.items() if name not in ("index", "valid")}
