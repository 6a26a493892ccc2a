"""Conversion between sound samples, 16-bit linear, and the levels that the model sees.

Mu-law levels (ITU-T G.711, in the continuous form of WaveNet, van den Oord et al. 2016, section 2.2) are
evenly spaced in sign(x) log(1 + 255 |x|) / log 256, so quiet samples have finer steps.
"""

import numpy as np

Array = np.ndarray

_HIGHEST, _MU = 2**15, 255


def to_levels(samples: Array, encoding: str) -> Array:
    """int16 -> uint8 of 'mu_law', uint16 of 'linear'."""
    if encoding == "linear":
        return (samples.astype(np.int32) + _HIGHEST).astype(np.uint16)
    x = samples / _HIGHEST
    y = np.sign(x) * np.log1p(_MU * np.abs(x)) / np.log1p(_MU)
    levels: Array = np.rint((y + 1) * _MU / 2).astype(np.uint8)
    return levels


def to_samples(levels: Array, encoding: str) -> Array:
    """The inverse of `to_levels`, int16."""
    if encoding == "linear":
        return (levels.astype(np.int32) - _HIGHEST).astype(np.int16)
    y = levels * (2 / _MU) - 1
    x = np.sign(y) * np.expm1(np.abs(y) * np.log1p(_MU)) / _MU
    samples: Array = np.clip(np.rint(x * _HIGHEST), -_HIGHEST, _HIGHEST - 1).astype(np.int16)
    return samples
