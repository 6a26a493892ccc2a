"""Codes for the levels of pictures: a discretised mixture of logistics (Salimans et al. 2017) or a Bernoulli
distribution.

Level v of V has the interval from C(v) to C(v + 1) of 2^r, C(v) = 2 v + (2^r - 2 V) F(v), rounded, where F is
the distribution function at the level's lower edge: every level has a frequency of at least 1, and only two
values of F are needed to code it. As in `latents`, no result depends on how arrays lie in memory.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod

import numpy as np
from einops import rearrange
from scipy.special import expit, log_expit

from dioscuri.compression.rans import Coder

Array = np.ndarray
Below = Callable[[Array, slice], Array]
"""From levels and places: the mass below each level, 0 below the lowest and 1 below V."""

LEVEL_BITS = 24
"""Precision r: the rarest level costs 23 bits."""
_BY_CHANNEL = "b ... c m -> c m (b ...)"


@dataclass(frozen=True)
class Scale:
    """Level v of `count` has the normalised value `lowest` + `step` v."""

    count: int
    lowest: float
    step: float

    def value(self, levels: Array) -> Array:
        """Normalised values."""
        return self.lowest + self.step * levels.astype(np.float64)


def push_levels(coder: Coder, levels: Array, parameters: Mapping[str, Array], scale: Scale) -> None:
    """Push levels (..., C); `parameters` as the mode `likelihood` of a family gives them."""
    flat, everywhere = _rows(levels.astype(np.uint64)), slice(None)  # (C, n)
    for below, channel in reversed([*zip(_channels(parameters, scale, [*flat]), flat, strict=True)]):
        start, end = (_start(v, everywhere, below, scale) for v in (channel, channel + np.uint64(1)))
        coder.push(start, end - start, np.full(len(start), LEVEL_BITS, np.uint64))


def pop_levels(coder: Coder, parameters: Mapping[str, Array], scale: Scale, shape: tuple[int, ...]) -> Array:
    """Levels of this shape: the inverse of `push_levels`."""
    channels: list[Array] = []
    bits = np.full(prod(shape[:-1]), LEVEL_BITS, np.uint64)
    for below in _channels(parameters, scale, channels):
        find = partial(_find, below, scale)
        channels += [coder.pop(bits, find)]
    return np.stack(channels, -1).reshape(shape)


def _channels(parameters: Mapping[str, Array], scale: Scale, known: Sequence[Array]) -> Iterator[Below]:
    """The distribution of every channel, given the levels of the channels before, which `known` must hold by
    the time the next one is asked for."""
    wide = {name: array.astype(np.float64) for name, array in parameters.items()}
    if "means" not in wide:
        for logits in _rows(wide["logits"]):
            yield partial(_bernoulli_below, logits)
        return
    log_weights = _rows(wide["logits"])  # (M, n)
    means, inverse_scales = (rearrange(wide[name], _BY_CHANNEL) for name in ("means", "inverse_scales"))
    coefficients = rearrange(wide["coefficients"], _BY_CHANNEL) if "coefficients" in wide else None
    before: list[Array] = []
    for channel, (mean, inverse) in enumerate(zip(means, inverse_scales, strict=True)):
        if coefficients is not None:  # green sees red, blue sees both
            first = channel * (channel - 1) // 2
            for coefficient, value in zip(coefficients[first : first + channel], before, strict=True):
                mean = mean + coefficient * value
        mean, inverse = np.ascontiguousarray(mean), np.ascontiguousarray(inverse)
        weights = np.exp(log_weights - log_weights.max(0))
        yield partial(_mixture_below, weights / weights.sum(0), mean, inverse, scale)
        if channel + 1 < len(means):
            before.append(scale.value(known[channel]))
            log_weights = log_weights + _log_mass(known[channel], mean, inverse, scale)


def _rows(array: Array) -> Array:
    """(..., K) -> (K, n), each row in one piece."""
    return np.ascontiguousarray(array.reshape(-1, array.shape[-1]).T)


def _bernoulli_below(logits: Array, levels: Array, place: slice) -> Array:
    return _between(expit(-logits[place]), levels, 2)


def _mixture_below(
    weights: Array, mean: Array, inverse: Array, scale: Scale, levels: Array, place: slice
) -> Array:
    edge = scale.value(levels) - scale.step / 2
    terms = weights[:, place] * expit((edge - mean[:, place]) * inverse[:, place])
    mass = terms[0]
    for term in terms[1:]:  # one after the other: sums of numpy depend on the number of columns
        mass = mass + term
    return _between(mass, levels, scale.count)


def _between(mass: Array, levels: Array, count: int) -> Array:
    """The lowest and the highest bin are open."""
    return np.where(levels == 0, 0.0, np.where(levels == count, 1.0, mass))


def _log_mass(levels: Array, mean: Array, inverse: Array, scale: Scale) -> Array:
    """Log masses (M, n) of levels (n,) under every component."""
    middle, half = (scale.value(levels) - mean) * inverse, scale.step / 2 * inverse
    below, above = log_expit(middle + half), log_expit(half - middle)
    inside = below + above + np.log(np.maximum(-np.expm1(-2 * half), np.finfo(np.float64).tiny))
    mass: Array = np.where(levels == 0, below, np.where(levels == scale.count - 1, above, inside))
    return mass


def _start(levels: Array, place: slice, below: Below, scale: Scale) -> Array:
    spread = np.rint(below(levels, place) * (2**LEVEL_BITS - 2 * scale.count))
    start: Array = levels * np.uint64(2) + spread.astype(np.uint64)
    return start


def _find(below: Below, scale: Scale, place: slice, number: Array) -> tuple[Array, Array, Array]:
    """Levels whose intervals hold the numbers, by bisection."""
    low, one = np.zeros_like(number), np.uint64(1)
    high = low + np.uint64(scale.count)
    for _ in range((scale.count - 1).bit_length()):
        middle = (low + high) >> one
        under = _start(middle, place, below, scale) <= number
        low, high = np.where(under, middle, low), np.where(under, high, middle)
    start = _start(low, place, below, scale)
    return low, start, _start(low + one, place, below, scale) - start
