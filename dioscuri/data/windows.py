"""Where windows of equal length lie in recordings of any length: fixed, or at random."""

from collections.abc import Sequence

import numpy as np

Array = np.ndarray


class Windows:
    """Windows of `length` steps in recordings of `lengths` steps, none of them shorter.

    Fixed windows are adjacent and do not overlap; the remainder of a recording is left out. A random window
    lies anywhere in the recording of its fixed one, so recordings are sampled in proportion to their length.
    """

    def __init__(self, lengths: Sequence[int], length: int) -> None:
        self.lengths, self.length = np.asarray(lengths, np.int64), length
        self.firsts = np.cumsum([0, *(self.lengths // length)])

    def __len__(self) -> int:
        return int(self.firsts[-1])

    def fixed(self, indices: Array) -> tuple[Array, Array]:
        """Recordings and first steps of windows (B,)."""
        recordings = np.searchsorted(self.firsts, indices, side="right") - 1
        return recordings, (indices - self.firsts[recordings]) * self.length

    def random(self, indices: Array, words: Array) -> tuple[Array, Array]:
        """The same for random windows, chosen by uint64 words (B,)."""
        recordings, _ = self.fixed(indices)
        places = self.lengths[recordings] - self.length + 1
        return recordings, (words % places.astype(np.uint64)).astype(np.int64)
