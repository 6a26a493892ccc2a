"""Ways through the latents of a hierarchy: from one example to another, along a variate, and mixtures.

Everything here is numpy on the host, so both twins walk the same way; `decode` is the twin's. Latents are
`z.<l>` (N, *grid, Z) by name, as `encode` gives them, and with classes `label` (N,). A mask (Z,) of a group
is 1 where its latents are given, 0 where they come from the prior.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from dioscuri.engine import Array
from dioscuri.errors import UserError, did_you_mean, quoted
from dioscuri.families.latent_models.conditions import known_classes
from dioscuri.families.latent_models.plan import LatentPlan
from dioscuri.inputs import is_number, to_plain

Latents = dict[str, Array]
Decode = Callable[[Latents, list[Array]], Array]
"""Examples (N, ...) of latents and masks, with the same noise in every call."""
Variate = tuple[int, int | None]
"""A latent group and one of its variates, None: all of them."""

HELD, PRIOR = "held", "prior"
SPREADS = (1e-6, 1000)
"""Limits of how far a traversal goes, in standard deviations."""
MOST_FRAMES = 1000
"""The most pictures from one end of a walk to the other."""
RESTS = (HELD, PRIOR)
"""Where latents come from that are not walked through: the example, or the prior."""


def film(
    plan: LatentPlan,
    first: Mapping[str, Array],
    last: Mapping[str, Array],
    n: int,
    decode: Decode,
    *,
    path: str = "linear",
    levels: Collection[int] = (),
    rest: str = HELD,
) -> Array:
    """Examples (N, n, ...) from the latents of `first` to those of `last`, both ends included.

    `path` is 'linear' or 'spherical'. Of the levels not in `levels` (empty: all are) the latents of `first`
    are held, or come from the prior. The class is that of the nearer end.
    """
    moving = {g for g, block in enumerate(plan.groups) if not levels or block.level in levels}
    masks = masks_of(plan, moving if rest == PRIOR else range(len(plan.groups)))
    between = PATHS[path]

    def at(t: float) -> Latents:
        z = {
            f"z.{g}": between(first[f"z.{g}"], last[f"z.{g}"], t) if g in moving else first[f"z.{g}"]
            for g in range(len(plan.groups))
        }
        return z | known_classes(first if t <= 0.5 else last)

    return np.stack([decode(at(float(t)), masks) for t in np.linspace(0, 1, n)], 1)


def traversal(
    plan: LatentPlan,
    encoded: Mapping[str, Array],
    variate: Variate,
    offsets: Iterable[float],
    decode: Decode,
    *,
    rest: str = HELD,
) -> Array:
    """Examples (N, offsets, ...) with a variate set to its prior's mean plus so many standard deviations of
    its prior, at all positions of its grid.

    `encoded` holds the prior's statistics too. Finer groups are held, or come from the prior, which then
    follows the change.
    """
    group, number = variate
    chosen = slice(None) if number is None else number
    n = len(plan.groups)
    masks = masks_of(plan, range(group + 1 if rest == PRIOR else n))
    mean, std = (encoded[f"prior_{kind}.{group}"] for kind in ("mean", "std"))

    def at(offset: float) -> Latents:
        z = {f"z.{g}": encoded[f"z.{g}"] for g in range(n)} | known_classes(encoded)
        changed = z[f"z.{group}"].copy()
        changed[..., chosen] = (mean + offset * std)[..., chosen]
        return z | {f"z.{group}": changed}

    return np.stack([decode(at(float(offset)), masks) for offset in offsets], 1)


def mixtures(
    plan: LatentPlan,
    first: Mapping[str, Array],
    second: Mapping[str, Array],
    cuts: Sequence[int],
    decode: Decode,
) -> Array:
    """Examples (N, cuts, ...) of the coarsest k latent groups of `first` and all finer ones of `second`, for
    every k of `cuts`. The class counts as coarser than all groups: it is that of `first` unless k is 0."""
    n = len(plan.groups)
    masks = masks_of(plan, range(n))
    mixed = [
        {f"z.{g}": (first if g < k else second)[f"z.{g}"] for g in range(n)}
        | known_classes(first if k else second)
        for k in cuts
    ]
    return np.stack([decode(latents, masks) for latents in mixed], 1)


def linear(a: Array, b: Array, t: float) -> Array:
    """The point that divides the line from a to b."""
    point: Array = ((1 - t) * a + t * b).astype(a.dtype)
    return point


def spherical(a: Array, b: Array, t: float) -> Array:
    """The point of the great arc from a to b (N, ...), each example one vector (Shoemake 1985; White 2016);
    of the line where the arc is not defined."""
    flat_a, flat_b = (x.reshape(len(x), -1).astype(np.float64) for x in (a, b))
    lengths = np.linalg.norm(flat_a, axis=1) * np.linalg.norm(flat_b, axis=1)
    cosines = (flat_a * flat_b).sum(1) / np.where(lengths > 0, lengths, 1)
    angles = np.arccos(cosines.clip(-1, 1))
    sines = np.sin(angles)
    bent = (lengths > 0) & (sines > 1e-6)
    divisor = np.where(bent, sines, 1)
    shares = [np.where(bent, np.sin(share * angles) / divisor, share) for share in (1 - t, t)]
    point: Array = (
        (shares[0][:, None] * flat_a + shares[1][:, None] * flat_b).reshape(a.shape).astype(a.dtype)
    )
    return point


PATHS: dict[str, Callable[[Array, Array, float], Array]] = {"linear": linear, "spherical": spherical}


def masks_of(plan: LatentPlan, given: Collection[int]) -> list[Array]:
    """Masks (Z,) of all groups: 1 for those in `given`, else 0."""
    return [np.full(block.variates, float(g in given), np.float32) for g, block in enumerate(plan.groups)]


def ranked(statistics: Sequence[Array], n: int) -> list[Variate]:
    """The n variates of the highest divergence, from that (Z,) of every group's variates."""
    values = np.concatenate(statistics)
    places = [(group, number) for group, each in enumerate(statistics) for number in range(len(each))]
    return [places[index] for index in np.argsort(-values, kind="stable")[:n]]


def variate_name(variate: Variate) -> str:
    """E.g. 'group 3, variate 1'."""
    group, number = variate
    return f"group {group}" + ("" if number is None else f", variate {number}")


def check_finite(latents: Mapping[str, Array], what: str = "these pictures") -> None:
    """Raise a `UserError` that names the first latents that are not finite."""
    for name, array in latents.items():
        if not np.isfinite(array).all():
            kind, _, group = name.rpartition(".")
            raise UserError(
                f"the model's {_KINDS.get(kind, kind)} of latent group {group} is not finite for {what}: its "
                "scales overflow; take another checkpoint, or train again with a lower learning rate"
            )


_KINDS = {
    "mean": "posterior mean",
    "std": "posterior standard deviation",
    "z": "sample",
    "prior_mean": "prior mean",
    "prior_std": "prior standard deviation",
}


def read_levels(plan: LatentPlan, given: Any, what: str) -> tuple[int, ...]:
    """Levels, counted from the coarsest, 0; a `UserError` names one that the model lacks."""
    levels = tuple(given) if isinstance(given, Iterable) and not isinstance(given, str) else (given,)
    for level in levels:
        if not is_whole(level) or not 0 <= level < plan.n_levels:
            raise UserError(
                f"{what} must be whole numbers from 0, the coarsest, to {plan.n_levels - 1}, "
                f"not {quoted(level)}"
            )
    return tuple(map(int, levels))


def read_variates(plan: LatentPlan, given: Any, what: str) -> list[Variate]:
    """Variates from (group, variate) or a group alone; a `UserError` names one that the model lacks."""
    rule = f"{what} must be pairs (group, variate), or numbers of groups"
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise UserError(f"{rule}, not {quoted(given)}")
    variates = [_variate(plan, item, rule) for item in given]
    if not variates:
        raise UserError(f"{rule}; got none")
    return variates


def _variate(plan: LatentPlan, item: Any, rule: str) -> Variate:
    numbers = tuple(item) if isinstance(item, list | tuple | np.ndarray) else (item,)
    if not all(map(is_whole, numbers)) or len(numbers) not in (1, 2):
        raise UserError(f"{rule}, not {quoted(item)}")
    group = int(numbers[0])
    if not 0 <= group < len(plan.groups):
        raise UserError(
            f"{rule}: there is no group {group}, the model has {len(plan.groups)}, counted from 0"
        )
    number, n = (int(numbers[1]) if len(numbers) == 2 else None), plan.groups[group].variates
    if number is not None and not 0 <= number < n:
        raise UserError(f"{rule}: group {group} has {n} variates, counted from 0, but no variate {number}")
    return group, number


def read_cuts(plan: LatentPlan, given: Any, what: str) -> tuple[int, ...]:
    """Numbers of groups, 0 to all; a `UserError` names one that the model lacks."""
    n = len(plan.groups)
    cuts = tuple(given) if isinstance(given, list | tuple | range | np.ndarray) else (given,)
    for cut in cuts:
        if not is_whole(cut) or not 0 <= cut <= n:
            raise UserError(f"{what} must be whole numbers of groups from 0 to {n}, not {quoted(cut)}")
    if not cuts:
        raise UserError(f"{what} must be whole numbers of groups from 0 to {n}; got none")
    return tuple(map(int, cuts))


def read_spread(given: Any) -> float:
    """A number of standard deviations."""
    (low, high), spread = SPREADS, to_plain(given)
    if not is_number(spread, low, high):
        raise UserError(f"spread must be a number from {low:g} to {high}, not {quoted(given)}")
    return float(spread)


def check_rest(rest: str, levels: Collection[int] | None, temperature: Any = 1.0) -> None:
    """Raise a `UserError` if no latent would come from the prior although the call asks for it: `levels` are
    those that an interpolation moves, empty: all; None in a traversal."""
    if rest == PRIOR and levels is not None and not levels:
        raise UserError("rest 'prior' needs levels, those that move: without them all do, and none is drawn")
    if rest == HELD and to_plain(temperature) != 1:
        raise UserError("temperature is that of latents from the prior: give rest='prior', or leave it out")


def read_choice(given: Any, choices: Collection[str], what: str) -> str:
    """One of the choices; a `UserError` otherwise."""
    if given not in choices:
        hint = did_you_mean(str(given), choices)
        raise UserError(f"{what} must be {' or '.join(map(repr, choices))}, not {quoted(given)}{hint}")
    return str(given)


def is_whole(given: Any) -> bool:
    """Whether this is a whole number."""
    return isinstance(given, int | np.integer) and not isinstance(given, bool)


def mixing_cuts(n_groups: int, most: int) -> tuple[int, ...]:
    """At most so many numbers of groups, evenly from 0 to all."""
    return tuple(sorted({round(k) for k in np.linspace(0, n_groups, min(most, n_groups + 1))}))
