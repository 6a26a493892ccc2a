"""Codes for Gaussian latents: bins of equal mass under the prior (Townsend, Bird and Barber 2019, section
2.5.1).

A latent is a bin of 2^k, coded under the prior in exactly k bits, and its value is the bin's median. Under
the posterior a bin's frequency follows from the normal distribution function at its edges. Of scipy's scalar
functions and numpy's exactly rounded ones, no result depends on how arrays lie in memory.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import ndtr, ndtri

from dioscuri.compression.rans import Coder

Array = np.ndarray

POSTERIOR_BITS = 26
"""Precision r of posteriors: a bin's frequency is out of 2^r."""
MAX_BITS = 16
"""Of a latent: with more, bins of the posterior would be as narrow as its precision."""


class Normal(NamedTuple):
    """Means and standard deviations (n,), float64."""

    mean: Array
    std: Array


def pop_prior(coder: Coder, bits: Array) -> Array:
    """Bins (n,) of 2^bits each."""
    return coder.pop(bits, lambda _, number: (number, number, np.ones_like(number)))


def push_prior(coder: Coder, bins: Array, bits: Array) -> None:
    """The inverse of `pop_prior`."""
    coder.push(bins, np.ones_like(bins), bits)


def pop_posterior(coder: Coder, prior: Normal, posterior: Normal, bits: Array) -> Array:
    """Bins (n,) of the prior, drawn from the posterior by the message's bits."""

    def find(place: slice, number: Array) -> tuple[Array, Array, Array]:
        p, q = (Normal(*(array[place] for array in normal)) for normal in (prior, posterior))
        return _find(number, p, q, bits[place])

    return coder.pop(np.full(len(bits), POSTERIOR_BITS, np.uint64), find)


def push_posterior(coder: Coder, bins: Array, prior: Normal, posterior: Normal, bits: Array) -> None:
    """The inverse of `pop_posterior`."""
    start = _cumulative(bins, prior, posterior, bits)
    frequency = _cumulative(bins + np.uint64(1), prior, posterior, bits) - start
    # A message that is none of ours may ask for a bin without mass; the checksum will tell.
    coder.push(start, np.maximum(frequency, np.uint64(1)), np.full(len(bits), POSTERIOR_BITS, np.uint64))


def medians(bins: Array, prior: Normal, bits: Array) -> Array:
    """Values (n,) of bins."""
    values: Array = prior.mean + prior.std * ndtri(np.ldexp(bins + 0.5, -bits.astype(int)))
    return values


def _cumulative(bins: Array, prior: Normal, posterior: Normal, bits: Array) -> Array:
    """Posterior mass below the lower edges of bins, times 2^r."""
    edge = prior.mean + prior.std * ndtri(np.ldexp(bins.astype(np.float64), -bits.astype(int)))
    mass = ndtr((edge - posterior.mean) / posterior.std)
    scaled: Array = np.rint(np.ldexp(mass, POSTERIOR_BITS)).astype(np.uint64)
    return scaled


def _find(number: Array, prior: Normal, posterior: Normal, bits: Array) -> tuple[Array, Array, Array]:
    """Bins whose intervals hold the numbers. A first guess is nearly always right; else, bisection."""
    quantile = posterior.mean + posterior.std * ndtri(np.ldexp(number + 0.5, -POSTERIOR_BITS))
    guess = np.floor(np.ldexp(ndtr((quantile - prior.mean) / prior.std), bits.astype(int)))
    last, one = (np.uint64(1) << bits) - np.uint64(1), np.uint64(1)
    low = np.minimum(guess.astype(np.uint64), last)
    start, end = (_cumulative(edges, prior, posterior, bits) for edges in (low, low + one))
    wrong = (number < start) | (number >= end)
    if wrong.any():
        high, low = np.where(wrong, last + one, low + one), np.where(wrong, np.uint64(0), low)
        for _ in range(int(bits.max())):
            middle = (low + high) >> one
            below = _cumulative(middle, prior, posterior, bits) <= number
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        start, end = (_cumulative(edges, prior, posterior, bits) for edges in (low, low + one))
    return low, start, end - start
