"""The pictures that a mode reads, and their batches."""

from collections.abc import Iterator

import numpy as np

from dioscuri.context import Context
from dioscuri.data import Examples, pipeline
from dioscuri.engine import Array, Batch
from dioscuri.outputs.progress import tracked

N_ON_SHEET = 32


def chosen_split(context: Context, default: str) -> Examples:
    """The pictures of `synthesis.split` or, if it is empty, of the mode's default split.

    Prints what a user should know about them, such as files that were left out.
    """
    pictures: Examples = getattr(context.sets, context.hparams.synthesis.split or default)
    for note in pictures.notes:
        context.say(f"{pictures.name}: {note}")
    return pictures


def chosen_indices(context: Context, pictures: Examples) -> Array:
    """Indices of the first `synthesis.n_samples` pictures; 0 means all."""
    limit = context.hparams.synthesis.n_samples or len(pictures)
    return np.arange(min(limit, len(pictures)))


def batches(context: Context, pictures: Examples, indices: Array, what: str) -> Iterator[Batch]:
    """The pictures at `indices` in padded batches of `synthesis.batch_size`, with a progress bar."""
    size = context.hparams.synthesis.batch_size
    stream = pipeline.evaluation_batches(pictures, context.hparams, batch_size=size, indices=indices)
    return tracked(stream, what, -(-len(indices) // size), shown=context.writes)


def validation_batches(context: Context) -> Iterator[Batch]:
    """The examples of a validation, in padded batches."""
    sets, hparams = context.sets, context.hparams
    size, limit = hparams.val.batch_size, hparams.val.n_samples_for_validation
    return pipeline.evaluation_batches(sets.validation, hparams, batch_size=size, limit=limit)


def first_training_batch(context: Context, n: int) -> Batch:
    """A padded batch of at most `n` training examples, evenly spread."""
    size = context.hparams.val.batch_size
    train = context.sets.train
    return next(pipeline.evaluation_batches(train, context.hparams, batch_size=size, limit=min(n, size)))
