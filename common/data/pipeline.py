"""The one Grain pipeline: shuffled indices, epoch after epoch, batched, then one vectorised read a batch.

The picture at position p of the endless training stream, its mirroring and its binarisation depend only on
(seed, p). Step s of a run with global batch size B takes positions s*B ... s*B + B - 1, and process r of R
takes the r-th of R equal parts of them. So the stream resumes from (seed, step) alone, in the middle of an
epoch, on any number of processes. Batches reach across epochs; a set smaller than the batch is repeated.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

import grain
import numpy as np

from common.data.descriptors import Descriptor, describe
from common.data.options import Options
from common.data.picture_set import PictureSet
from common.data.randomness import BINARISATION_SEED, binarise, coin_flips, permutation
from common.errors import UserError

Array = np.ndarray
Batch = dict[str, Array]

# One thread reads ahead of the training step; folders decode in threads of their own.
_READ_AHEAD = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)


class ShuffledPositions:
    """Random-access source for Grain: item s is (positions, picture indices) of one process at step s.

    Grain's own `shuffle` and `batch` call Python for every index, which for small pictures costs more than
    reading them; here an epoch is permuted at once.
    """

    def __init__(self, n: int, seed: int, batch_size: int, process_index: int, process_count: int) -> None:
        self.n = n
        self.batch_size = batch_size
        size = batch_size // process_count
        self.share = process_index * size + np.arange(size)
        # Two epochs, since a batch may reach into the next one.
        self.order = lru_cache(maxsize=2)(lambda epoch: permutation(seed, epoch, n))

    def __len__(self) -> int:
        return 2**62 // self.batch_size

    def __getitem__(self, step: int) -> tuple[Array, Array]:
        positions = step * self.batch_size + self.share
        epochs, ranks = np.divmod(positions, self.n)
        indices = np.empty_like(positions)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            indices[here] = self.order(int(epoch))[ranks[here]]
        return positions, indices


class TrainingBatches(Iterator[Batch]):
    """Endless batches {'image': uint8 (B / R, target_res, target_res, C)} of process r of R."""

    def __init__(
        self,
        picture_set: PictureSet,
        options: Options,
        *,
        batch_size: int,
        process_index: int,
        process_count: int,
        state: Mapping[str, int] | None,
    ) -> None:
        if batch_size % process_count:
            raise UserError(
                f"[train] batch_size {batch_size} is no multiple of the {process_count} processes"
            )
        self._picture_set = picture_set
        self._descriptor = describe(options.data.dataset_source)
        self._flip = options.data.random_horizontal_flip and self._descriptor.flip
        self._batch_size = batch_size
        self._seed, self._step = _restore(state, options.run.seed, batch_size)
        source = ShuffledPositions(len(picture_set), self._seed, batch_size, process_index, process_count)
        self._batches = iter(grain.MapDataset.source(source).map(self._read).to_iter_dataset(_READ_AHEAD))
        self._batches.set_state({"next_index": self._step})

    def __next__(self) -> Batch:
        batch: Batch = next(self._batches)
        self._step += 1
        return batch

    def state(self) -> dict[str, int]:
        """What to save so that a new iterator goes on with the batch after the last one taken."""
        return {"seed": self._seed, "next_index": self._step, "batch_size": self._batch_size}

    def close(self) -> None:
        """Stop reading ahead."""
        self._batches.close()

    def _read(self, item: tuple[Array, Array]) -> Batch:
        positions, indices = item
        pictures = self._picture_set.gather(indices)
        if self._picture_set.binarise_on_read:
            pictures = binarise(pictures, self._seed, "train", positions)
        if self._flip:
            mirrored = coin_flips(self._seed, positions)
            pictures[mirrored] = pictures[mirrored, :, ::-1]
        return {"image": pad(pictures, self._descriptor)}


def training_batches(
    picture_set: PictureSet,
    options: Options,
    *,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
    state: Mapping[str, int] | None = None,
) -> TrainingBatches:
    """Return the endless training stream, shuffled anew each epoch, augmented and padded.

    `batch_size` is the global one; each process gets its share. `state` comes from
    `TrainingBatches.state`; it carries the seed, and with another batch size the stream goes on at the same
    picture, rounded up to a whole batch. Raises `UserError` for a damaged state or a batch that the processes
    cannot share.
    """
    return TrainingBatches(
        picture_set,
        options,
        batch_size=batch_size,
        process_index=process_index,
        process_count=process_count,
        state=state,
    )


def evaluation_batches(
    picture_set: PictureSet,
    options: Options,
    *,
    batch_size: int,
    limit: int | None = None,
    indices: Sequence[int] | Array | None = None,
) -> Iterator[Batch]:
    """Yield pictures once, in order, in batches of equal shape, never mirrored.

    A batch has 'image' uint8 (B, target_res, target_res, C), 'index' int64 (B,) and 'valid' bool (B,). The
    last batch is filled up with repetitions that are not valid; neither is a picture that could not be read.
    `indices` chooses pictures; `limit` takes at most so many of them, evenly spread, since stored orders are
    often sorted. A set that is binarised on reading is binarised here by a fixed draw for each picture.
    """
    descriptor = describe(options.data.dataset_source)
    chosen = np.arange(len(picture_set)) if indices is None else np.asarray(indices, np.int64)
    if limit is not None and limit < len(chosen):
        chosen = chosen[np.arange(limit) * len(chosen) // limit]
    for start in range(0, len(chosen), batch_size):
        real = chosen[start : start + batch_size]
        pictures = picture_set.gather(real)
        if picture_set.binarise_on_read:
            pictures = binarise(pictures, BINARISATION_SEED, "train", real)
        fill = np.arange(batch_size) % len(real)
        unread = np.isin(real[fill], list(picture_set.unreadable))
        valid = (np.arange(batch_size) < len(real)) & ~unread
        yield {"image": pad(pictures[fill], descriptor), "index": real[fill], "valid": valid}


def pad(pictures: Array, descriptor: Descriptor) -> Array:
    """Add the source's zero pixels around uint8 (B, h, w, C)."""
    edge = descriptor.padding
    return np.pad(pictures, ((0, 0), (edge, edge), (edge, edge), (0, 0))) if edge else pictures


def _restore(state: Mapping[str, int] | None, seed: int, batch_size: int) -> tuple[int, int]:
    """(seed, next step) of a saved state, or of a fresh stream."""
    if state is None:
        return seed, 0
    try:
        position = int(state["next_index"]) * int(state["batch_size"])
        return int(state["seed"]), -(-position // batch_size)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"the saved data state {dict(state)} is damaged; resume from an older checkpoint"
        ) from error
