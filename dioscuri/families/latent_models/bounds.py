"""The negative evidence lower bound over a set of pictures, and the divergence by latent group and level."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import log
from pathlib import Path

import numpy as np

from dioscuri.engine import Array, Batch, Engine
from dioscuri.families.latent_models.conditions import examples
from dioscuri.families.latent_models.plan import LatentPlan
from dioscuri.files import replacing

LN2 = log(2)


@dataclass(frozen=True)
class Unit:
    """Unit of reported likelihoods: `value = nats per picture * per_nat`."""

    name: str
    per_nat: float

    def tell(self, nats: float) -> str:
        """E.g. '4.1234 bits/dim (2.8581 nats/dim)', from nats per picture."""
        also = "".join(f" ({value:.4f} nats/dim)" for value in self.in_nats(nats).values())
        return f"{nats * self.per_nat:.4f} {self.name}{also}"

    def in_nats(self, nats: float) -> dict[str, float]:
        """For reports in bits: the negative bound in nats per dimension; otherwise empty."""
        is_bits = self.name == "bits/dim"
        return {"negative_elbo_nats_per_dim": nats * self.per_nat * LN2} if is_bits else {}


def unit_of(plan: LatentPlan) -> Unit:
    """Bits per dimension for the discretised mixture, nats per picture for binary pictures. Absolute errors
    are not likelihoods, so their sum with nats per dimension has no unit of bits."""
    if plan.likelihood == "bernoulli":
        return Unit("nats", 1.0)
    if plan.likelihood == "absolute":
        return Unit("L1 + nats/dim", 1 / plan.image_dims)
    return Unit("bits/dim", 1 / (LN2 * plan.image_dims))


@dataclass(frozen=True)
class Bound:
    """Means over `n` pictures, in nats per picture: the reconstruction term, and the
    divergence (L,) by latent group."""

    n: int
    reconstruction: float
    kl: Array

    @property
    def negative_elbo(self) -> float:
        """Reconstruction plus all divergences."""
        return self.reconstruction + float(self.kl.sum())


class BoundSum:
    """Sums per-picture terms over padded batches, counting every picture once."""

    def __init__(self) -> None:
        self._n, self._reconstruction, self._kl = 0, 0.0, np.zeros(())

    def add(self, terms: Batch, valid: Array) -> None:
        """Add `reconstruction` (B,) and `kl` (B, L) where `valid` (B,) is true."""
        self._n += int(valid.sum())
        self._reconstruction += float(terms["reconstruction"][valid].astype(np.float64).sum())
        self._kl = self._kl + terms["kl"][valid].astype(np.float64).sum(0)

    def mean(self) -> Bound:
        """The means so far."""
        return Bound(self._n, self._reconstruction / self._n, self._kl / self._n)


def evaluate_bound(
    engine: Engine, batches: Iterable[Batch], *, ema: bool, on_batch: Callable[[], None] = lambda: None
) -> Bound:
    """Evaluate padded batches. Batch i always uses the same noise, so evaluations are comparable."""
    total = BoundSum()
    for index, batch in enumerate(batches):
        total.add(engine.run("evaluate", examples(batch), ema=ema, step=index), batch["valid"])
        on_batch()
    return total.mean()


def active_groups(plan: LatentPlan, kl: Array, threshold: float) -> list[bool]:
    """Whether each group's divergence (L,), in nats per latent dimension, is above the threshold."""
    return [float(value) / plan.latent_dims(group) > threshold for group, value in enumerate(kl)]


def kl_table(plan: LatentPlan, kl: Array, threshold: float) -> list[str]:
    """Lines of a table with the divergence of every top-down level, from that of its groups (L,) in nats."""
    unit, active = unit_of(plan), active_groups(plan, kl, threshold)
    lines = [f"level  resolution  groups  active  KL {unit.name:<9} share  nats/latent"]
    for level in range(plan.n_levels):
        groups = [group for group, block in enumerate(plan.groups) if block.level == level]
        nats = float(sum(kl[group] for group in groups))
        size = "x".join(map(str, plan.groups[groups[0]].grid))
        share = nats / max(float(kl.sum()), 1e-12)
        lines.append(
            f"{level:>5}  {size:>10}  {len(groups):>6}  {sum(active[g] for g in groups):>6}  "
            f"{nats * unit.per_nat:>12.4f} {share:>6.1%}  {nats / sum(map(plan.latent_dims, groups)):>11.5f}"
        )
    lines.append(
        f"  all              {len(plan.groups):>6}  {sum(active):>6}  {float(kl.sum()) * unit.per_nat:>12.4f}"
    )
    return lines


def kl_chart(path: Path, plan: LatentPlan, kl: Array) -> Path:
    """Bar chart of the divergence of every latent group, one colour per level."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - most of a second to import, for charts only

    unit = unit_of(plan)
    figure = Figure(figsize=(max(6.0, 0.22 * len(plan.groups)), 4.0), dpi=120, layout="constrained")
    axes = figure.subplots()
    colours = [f"C{block.level % 10}" for block in plan.groups]
    axes.bar(range(len(plan.groups)), kl * unit.per_nat, color=colours)
    first = [next(g for g, block in enumerate(plan.groups) if block.level == n) for n in range(plan.n_levels)]
    axes.set_xticks(first, [f"{g}\n{_size(plan.groups[g].grid)}" for g in first])
    axes.set_xlabel("latent group, with its resolution where a level begins")
    axes.set_ylabel(f"KL, {unit.name}")
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")
    return path


def _size(grid: tuple[int, ...]) -> str:
    """E.g. 8² for a square, 4x8x8 for other grids."""
    return f"{grid[0]}²" if len(grid) == 2 else "x".join(map(str, grid))


def group_name(group: int) -> str:
    """Canonical name of a latent group, which is that of its block."""
    return f"top_down.blocks.{group}"


def importance_log_weights(
    engine: Engine,
    image: Batch,
    n_samples: int,
    *,
    ema: bool,
    index: int,
    masks: Sequence[Array] | None = None,
) -> list[Array]:
    """log p(x, z) - log q(z | x) of every picture (B,) of batch number `index`, an array a draw of z; with
    `masks`, variates that come from the prior count nothing."""
    log_weights = []
    for draw in range(n_samples):
        terms = engine.run(
            "evaluate",
            image,
            ema=ema,
            step=index * n_samples + draw,
            masked=None if masks is None else True,
            masks=masks,
        )
        log_weights.append(log_weight(terms))
    return log_weights


def log_weight(terms: Batch) -> Array:
    """log p(x, z) - log q(z | x) of every picture (B,), from what `evaluate` gives."""
    weight: Array = -terms["reconstruction"].astype(np.float64) - terms["log_ratio"].astype(np.float64).sum(1)
    return weight


def importance_bound(log_weights: Sequence[Array]) -> Array:
    """-log mean_k exp(log_weights[k]) for every picture (B,): the bound of Burda et al. 2016, equation 8."""
    bound: Array = np.log(len(log_weights)) - np.logaddexp.reduce(
        np.stack(log_weights).astype(np.float64), axis=0
    )
    return bound


def importance_error(log_weights: Sequence[Array]) -> Array:
    """Standard error of that bound (B,) in nats, by the delta method: that of the mean weight, over the mean
    weight. One draw has none: NaN."""
    K, logs = len(log_weights), np.stack(log_weights).astype(np.float64)
    if K == 1:
        return np.full(logs.shape[1:], np.nan)
    with np.errstate(invalid="ignore"):  # weights that are not finite give NaN
        weights = np.exp(logs - logs.max(0))
        error: Array = weights.std(0, ddof=1) / (weights.mean(0) * np.sqrt(K))
    return error
