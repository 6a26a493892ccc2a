"""What the evidence lower bound says of each picture."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import log
from typing import Any

import numpy as np

from dioscuri.engine import Array
from dioscuri.families.latent_models.bounds import importance_bound, importance_error
from dioscuri.families.latent_models.plan import LatentPlan

LN2 = log(2)


@dataclass(frozen=True)
class Bound:
    """Terms of the evidence lower bound of N pictures, all in nats per picture.

    `elbo` (N,) = -(reconstruction + kl.sum(1)) is at most log p(x); `importance` (N,), the bound of several
    samples (Burda et al. 2016), lies between the two, and `importance_error` (N,) is its standard error, NaN
    of a single sample. `reconstruction` (N,) is -log p(x | z), `kl` (N, levels) the divergence of every
    top-down level, coarsest first. `dims` is the number of values in a picture.
    """

    elbo: Array
    reconstruction: Array
    kl: Array
    importance: Array
    importance_error: Array
    dims: int

    @property
    def bits_per_dim(self) -> float:
        """Mean of -elbo in bits per dimension."""
        return float(-self.elbo.mean()) / (LN2 * self.dims)

    def rows(self) -> Iterator[dict[str, Any]]:
        """The scores of one picture after the other, as the mode `scores` writes them."""
        for n in range(len(self.elbo)):
            yield score_row(
                {"reconstruction": self.reconstruction[n], "kl": self.kl[n]},
                -self.importance[n],
                self.importance_error[n],
                self.dims,
            )


def bound_of(plan: LatentPlan, reconstruction: Array, kl: Array, log_weights: Sequence[Array]) -> Bound:
    """From terms (N,) and (N, groups) in nats, and log weights (N,) of every sample."""
    return Bound(
        elbo=-(reconstruction + kl.sum(1)),
        reconstruction=reconstruction,
        kl=by_level(plan, kl),
        importance=-importance_bound(log_weights),
        importance_error=importance_error(log_weights),
        dims=plan.image_dims,
    )


def score_row(
    terms: Mapping[str, Any], bound: float | None, error: float | None, dims: int
) -> dict[str, Any]:
    """A row of scores, in nats: `terms` has `reconstruction` and `kl` (levels,) of a picture, `bound` is the
    importance-weighted one and `error` its standard error, None or NaN where there is none."""
    kl = [float(value) for value in terms["kl"]]
    negative_elbo = float(terms["reconstruction"]) + sum(kl)
    row = {"negative_elbo": negative_elbo, "reconstruction": float(terms["reconstruction"]), "kl": kl}
    if bound is not None and error is not None:
        row |= {
            "importance_weighted_bound": float(bound),
            "standard_error": None if np.isnan(error) else float(error),
        }
    return row | {"bits_per_dim": negative_elbo / (LN2 * dims), "nats_per_dim": negative_elbo / dims}


def by_level(plan: LatentPlan, kl: Array) -> Array:
    """(N, groups) -> (N, levels)."""
    levels = np.array([block.level for block in plan.groups])
    return np.stack([kl[:, levels == level].sum(1) for level in range(plan.n_levels)], 1)
