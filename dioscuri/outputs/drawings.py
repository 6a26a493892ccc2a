"""Sounds and clips as pictures, for sheets and logs."""

import numpy as np
from einops import rearrange

Array = np.ndarray

HEIGHT, WIDEST = 32, 128  # pixels of a drawn sound
INK = 255


def as_pictures(examples: Array) -> Array:
    """Pictures uint8 (N, H, W, C) of examples: pictures (N, H, W, C) unchanged, clips (N, T, H, W, C) as
    their frames side by side, sounds (N, L, C) as the range of the first channel's levels over time."""
    if examples.ndim == 4:
        return examples
    if examples.ndim == 5:
        return rearrange(examples, "n t h w c -> n h (t w) c")
    return np.stack([_waveform(sound[:, 0]) for sound in examples])


def _waveform(levels: Array) -> Array:
    """uint8 (HEIGHT, W, 1) of levels (L,); a column shows the range of its samples."""
    rows = levels.astype(np.int64) * (HEIGHT - 1) // np.iinfo(levels.dtype).max
    drawn = np.zeros((HEIGHT, min(len(levels), WIDEST), 1), np.uint8)
    for column, share in enumerate(np.array_split(rows, drawn.shape[1])):
        drawn[HEIGHT - 1 - share.max() : HEIGHT - share.min(), column] = INK
    return drawn
