"""Random numbers that depend only on a seed, a stream and a position.

Philox is counter-based: it computes the numbers at position p without those before it, so an interrupted run
and a run on more processes see the same numbers as any other. Only raw words are used: numpy guarantees their
sequence, but not that of its distributions.
"""

import numpy as np

Array = np.ndarray

SPLIT_SEED = 101
"""Seed of the fixed splits, as in the original programs."""

BINARISATION_SEED = 20220305
"""Seed of the binarised validation and test sets, the same in every run and in both twins."""

STREAMS = {
    "train": 0,
    "validation": 1,
    "test": 2,
    "flip": 3,
    "order": 4,
    "place": 5,
    "caption": 6,
    "affine": 7,
}

_BLOCK = 4  # words per Philox counter


def words(seed: int, stream: str, positions: Array, n_words: int) -> Array:
    """Return uint64 (len(positions), n_words); row i is a pure function of (seed, stream, positions[i])."""
    blocks = -(-n_words // _BLOCK)
    key = np.array([seed % 2**64, STREAMS[stream]], dtype=np.uint64)

    def draw(first: int, count: int) -> Array:
        generator = np.random.Philox(key=key).advance(first * blocks)
        return generator.random_raw(count * blocks * _BLOCK).reshape(count, blocks * _BLOCK)[:, :n_words]

    positions = np.asarray(positions, dtype=np.int64)
    if len(positions) and (np.diff(positions) == 1).all():
        return draw(int(positions[0]), len(positions))
    return np.concatenate([np.empty((0, n_words), np.uint64), *(draw(int(p), 1) for p in positions)])


def binarise(pictures: Array, seed: int, stream: str, positions: Array) -> Array:
    """Draw 255 with probability level / 255, else 0, for each value of uint8 (B, H, W, C)."""
    B = len(pictures)
    values = pictures.reshape(B, -1)
    n_values = values.shape[1]
    bits = words(seed, stream, positions, -(-n_values // 2)).copy().view(np.uint32)[:, :n_values]
    white = bits.astype(np.uint64) * np.uint64(255) < values.astype(np.uint64) << np.uint64(32)
    return (white * np.uint8(255)).reshape(pictures.shape)


def coin_flips(seed: int, positions: Array) -> Array:
    """Return bool (B,), one fair coin flip per position."""
    return (words(seed, "flip", positions, 1)[:, 0] >> np.uint64(63)).astype(bool)


def permutation(seed: int, epoch: int, n: int) -> Array:
    """Return the order (n,) in which an epoch visits n items."""
    return np.argsort(words(seed, "order", np.array([epoch]), n)[0], kind="stable")


def fixed_permutation(n: int) -> Array:
    """The order that scikit-learn's `shuffle(random_state=101)` gives to n items."""
    order = np.arange(n)
    np.random.RandomState(SPLIT_SEED).shuffle(order)
    return order
