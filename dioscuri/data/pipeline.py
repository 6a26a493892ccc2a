"""The data pipeline: indices shuffled epoch by epoch, then one vectorised read per batch, in advance.

Examples are pictures or, from token shards, the tokens of pictures. The example at position p of the endless
training stream, its place in a recording, its affine map, its mirroring and its binarisation depend only on
(seed, p). Step s of a run with global batch size B takes positions s*B ... s*B + B - 1, and process r of R
the r-th of R equal shares of them; after a change of the batch size, positions are shifted by an `offset`. So
the stream resumes from (seed, position) alone, in the middle of an epoch, on any number of processes. Batches
cross the borders of epochs; a set smaller than the batch is repeated.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache, partial

import numpy as np

from dioscuri.data import affine
from dioscuri.data.descriptors import Descriptor, describe
from dioscuri.data.options import Options
from dioscuri.data.picture_set import PictureSet
from dioscuri.data.randomness import BINARISATION_SEED, binarise, coin_flips, permutation, words
from dioscuri.data.tokens import TokenSet
from dioscuri.errors import UserError

Array = np.ndarray
Batch = dict[str, Array]

_AHEAD = 2
"""Batches that one thread reads ahead of the training step; folders decode in further threads."""


class ShuffledPositions:
    """Item s is (positions, picture indices) of one process at step s of a stream that begins at position
    `first`."""

    def __init__(
        self, n: int, seed: int, batch_size: int, process_index: int, process_count: int, first: int = 0
    ) -> None:
        self.n, self.first = n, first
        self.batch_size = batch_size
        size = batch_size // process_count
        self.share = process_index * size + np.arange(size)
        # Two epochs: a batch may reach into the next one.
        self.order = lru_cache(maxsize=2)(lambda epoch: permutation(seed, epoch, n))

    def __getitem__(self, step: int) -> tuple[Array, Array]:
        positions = self.first + step * self.batch_size + self.share
        epochs, ranks = np.divmod(positions, self.n)
        indices = np.empty_like(positions)
        for epoch in np.unique(epochs):
            in_epoch = epochs == epoch
            indices[in_epoch] = self.order(int(epoch))[ranks[in_epoch]]
        return positions, indices


class TrainingBatches(Iterator[Batch]):
    """Endless batches of process r of R: 'image' uint8 (B / R, target_res, target_res, C), for sounds (B / R,
    target_res, C), for clips (B / R, frames, target_res, target_res, C), or 'tokens' int32 (B / R, L). With
    `data.labels` also 'label' int32 (B / R,), with `data.text_seq_len` 'caption' int32 (B / R, L), and with
    encoded captions the arrays of `dioscuri.data.texts`.
    """

    def __init__(
        self,
        examples: PictureSet | TokenSet,
        options: Options,
        *,
        batch_size: int,
        process_index: int,
        process_count: int,
        state: Mapping[str, int] | None,
    ) -> None:
        if batch_size % process_count:
            raise UserError(
                f"[train] batch_size {batch_size} is not a multiple of the {process_count} processes"
            )
        self._examples, self._labels = examples, options.data.labels
        self._descriptor = describe(options.data.dataset_source)
        self._maps = options.data if affine.is_on(options.data) else None
        self._flip = options.data.random_horizontal_flip and self._descriptor.flip
        self._batch_size = batch_size
        self._seed, self._first = _restore(state, options.run.seed)
        self._step = 0
        self._shuffled = ShuffledPositions(
            len(examples), self._seed, batch_size, process_index, process_count, self._first
        )
        self._reader = ThreadPoolExecutor(1)
        self._mappers = ThreadPoolExecutor(
            min(options.run.num_cpus, os.cpu_count() or 1), thread_name_prefix="map"
        )
        self._ahead: deque[Future[Batch]] = deque()

    def __next__(self) -> Batch:
        while len(self._ahead) <= _AHEAD:
            self._ahead.append(self._reader.submit(self._read, self._step + len(self._ahead)))
        batch = self._ahead[0].result()
        self._ahead.popleft()
        self._step += 1
        return batch

    def state(self) -> dict[str, int]:
        """What to save so that a new iterator continues after the last batch taken."""
        step, offset = divmod(self._first + self._step * self._batch_size, self._batch_size)
        state = {"seed": self._seed, "next_index": step, "batch_size": self._batch_size}
        return state | ({"offset": offset} if offset else {})

    def close(self) -> None:
        """Stop reading ahead."""
        self._reader.shutdown(cancel_futures=True)
        self._mappers.shutdown()

    def _read(self, step: int) -> Batch:
        positions, indices = self._shuffled[step]
        draw = partial(binarise, seed=self._seed, stream="train", positions=positions)
        places = words(self._seed, "place", positions, 1)[:, 0]
        picks = words(self._seed, "caption", positions, 1)[:, 0]
        mapped = partial(self._mapped, positions=positions)
        batch = _examples_at(
            self._examples, indices, draw, labels=self._labels, places=places, picks=picks, mapped=mapped
        )
        if "image" in batch and self._flip:
            mirrored, pictures = coin_flips(self._seed, positions), batch["image"]
            pictures[mirrored] = pictures[mirrored][..., ::-1, :]
        return _padded(batch, self._descriptor)

    def _mapped(self, pictures: Array, positions: Array) -> Array:
        """Pictures (B, ..., H, W, C) after the random maps of their positions (B,)."""
        if self._maps is None:
            return pictures
        return affine.randomly_mapped(
            pictures, options=self._maps, seed=self._seed, positions=positions, pool=self._mappers
        )


def training_batches(
    examples: PictureSet | TokenSet,
    options: Options,
    *,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
    state: Mapping[str, int] | None = None,
) -> TrainingBatches:
    """Return the endless training stream, reshuffled each epoch, augmented and padded.

    `batch_size` is the global one; each process gets its share. `state` comes from `TrainingBatches.state`
    and includes the seed; with a different batch size or number of processes the stream continues at the same
    picture. Raises `UserError` for a damaged state or a batch that the processes cannot share equally.
    """
    return TrainingBatches(
        examples,
        options,
        batch_size=batch_size,
        process_index=process_index,
        process_count=process_count,
        state=state,
    )


def evaluation_batches(
    examples: PictureSet | TokenSet,
    options: Options,
    *,
    batch_size: int,
    limit: int | None = None,
    indices: Sequence[int] | Array | None = None,
) -> Iterator[Batch]:
    """Yield examples once, in order, in batches of equal shape, never mirrored.

    A batch has the entries of a training batch, 'index' int64 (B,) and 'valid' bool (B,). Not valid are the
    repetitions that pad the last batch, and unreadable pictures. `indices` selects pictures; `limit` takes at
    most that many of them, evenly spread, since stored orders are often sorted. A set that is binarised on
    reading is binarised here with fixed random numbers for each picture.
    """
    descriptor = describe(options.data.dataset_source)
    chosen = np.arange(len(examples)) if indices is None else np.asarray(indices, np.int64)
    if limit is not None and limit < len(chosen):
        chosen = chosen[np.arange(limit) * len(chosen) // limit]
    for start in range(0, len(chosen), batch_size):
        real = chosen[start : start + batch_size]
        draw = partial(binarise, seed=BINARISATION_SEED, stream="train", positions=real)
        batch = _examples_at(examples, real, draw, labels=options.data.labels)
        fill = np.arange(batch_size) % len(real)
        valid = (np.arange(batch_size) < len(real)) & ~np.isin(real[fill], list(examples.unreadable))
        rows = {name: array[fill] for name, array in batch.items()}
        yield {**_padded(rows, descriptor), "index": real[fill], "valid": valid}


def _examples_at(
    examples: PictureSet | TokenSet,
    indices: Array,
    draw: Callable[[Array], Array],
    *,
    labels: bool,
    places: Array | None = None,
    picks: Array | None = None,
    mapped: Callable[[Array], Array] = lambda pictures: pictures,
) -> Batch:
    """A batch of the examples at `indices` (B,), `mapped`. `draw` binarises grey levels; random words choose
    `places` in recordings or pictures and, of several captions, the `picks`."""
    batch: Batch = {}
    if isinstance(examples, TokenSet):
        batch["tokens"] = examples.gather(indices).reshape(len(indices), -1)
        batch |= {} if examples.texts is None else examples.texts.gather(indices)
    else:
        pictures = mapped(examples.gather(indices, places))
        batch["image"] = draw(pictures) if examples.binarise_on_read else pictures
        indices = examples.shown(indices)
        if examples.captions is not None:
            batch["caption"] = examples.captions[indices]
        batch |= {} if examples.texts is None else examples.texts.gather(indices, picks, places)
    if labels and examples.labels is not None:
        batch["label"] = np.asarray(examples.labels)[indices].astype(np.int32)
    return batch


def _padded(batch: Batch, descriptor: Descriptor) -> Batch:
    return {name: pad(array, descriptor) if name == "image" else array for name, array in batch.items()}


def pad(pictures: Array, descriptor: Descriptor) -> Array:
    """Add the source's zero pixels around uint8 (B, h, w, C)."""
    edge = descriptor.padding
    return np.pad(pictures, ((0, 0), (edge, edge), (edge, edge), (0, 0))) if edge else pictures


def _restore(state: Mapping[str, int] | None, seed: int) -> tuple[int, int]:
    """(seed, next position) of a saved state, or of a fresh stream."""
    if state is None:
        return seed, 0
    try:
        position = int(state["next_index"]) * int(state["batch_size"]) + int(state.get("offset", 0))
        return int(state["seed"]), position
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"the saved data state {dict(state)} is damaged; resume from an older checkpoint"
        ) from error
