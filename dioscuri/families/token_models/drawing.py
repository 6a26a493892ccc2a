"""Classes and texts to sample, and pictures decoded from tokens."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from dioscuri.context import Context
from dioscuri.contract import family_of
from dioscuri.data.descriptors import describe
from dioscuri.data.texts import DECODER_TEXT
from dioscuri.engine import Array, Batch
from dioscuri.errors import UserError
from dioscuri.families.maskgit.transformers import plan_of
from dioscuri.families.token_models.texts import prompts


def can_draw(hparams: Any) -> bool:
    """Whether tokens can become pictures, by a tokenizer or as grey levels."""
    levels = family_of(hparams).grey_levels and not describe(hparams.data.dataset_source).tokens
    return bool(hparams.data.tokenizer_path) or levels


def check_draws(hparams: Any) -> None:
    """Raise a `UserError` if tokens cannot become pictures."""
    if not can_draw(hparams):
        raise UserError("[data] tokenizer_path is empty, but pictures need a tokenizer: give its run folder")


def chosen_classes(hparams: Any) -> Array:
    """The classes of `synthesis.classes`, else all of the model's; none if it is unconditional."""
    return np.asarray(hparams.synthesis.classes or range(hparams.model.num_classes), np.int32)


def order(context: Context, first: int, n: int) -> dict[str, Array]:
    """Conditions of pictures `first` ... `first` + n - 1: classes and texts, cycled."""
    hparams, numbers = context.hparams, first + np.arange(n)
    classes = chosen_classes(hparams)
    conditions = {"label": classes[numbers % len(classes)]} if len(classes) else {}
    if hparams.data.text_length:
        texts = prompts(context, plan_of(hparams))
        conditions |= texts.gather(numbers % len(texts))
    return conditions or {"index": numbers}


def draw(
    context: Context, n: int, *, ema: bool, step: int = 0, first: int = 0, every_step: bool = False
) -> Iterator[dict[str, Array]]:
    """Batches of `synthesis.batch_size` pictures, n in all: `image`, `tokens`, `taken`, with classes `label`,
    and with `every_step` `steps` and `masked`. Batches that end before picture `first` are skipped."""
    size = context.hparams.synthesis.batch_size
    names = ("image", "tokens", "label", "taken", "steps", "masked", DECODER_TEXT)
    options: dict[str, Any] = {"every_step": True} if every_step else {}
    for start in range(first, n, size):
        conditions = order(context, start, size)
        # One step number per batch, far apart for different steps: no two batches share noise.
        made = context.engine.run(
            "generate", conditions, ema=ema, step=step * 2**16 + start // size, **options
        )
        rows = conditions | made
        yield {name: rows[name][: n - start] for name in names if name in rows}


def decoded(context: Context, tokens: Array, text: Array | None = None, *, ema: bool = True) -> Array:
    """Pictures uint8 (N, H, W, C) of tokens (N, L) and, for a tokenizer that reads them, texts (N, S, E), in
    batches of `synthesis.batch_size`."""
    rows = {"tokens": tokens} | ({} if text is None else {DECODER_TEXT: text})
    size, n, made = context.hparams.synthesis.batch_size, len(tokens), []
    for first in range(0, n, size):
        # Pad by repetition, so that only one batch shape is compiled.
        chosen = first + np.arange(size) % min(size, n - first)
        given = {name: array[chosen] for name, array in rows.items()}
        made.append(context.engine.run("decode", given, ema=ema, step=0)["image"][: n - first])
    return np.concatenate(made)


def pictures_of(context: Context, batch: Batch) -> Array:
    """Pictures (B, H, W, C) of a batch, decoded from its tokens if it has no pictures."""
    return batch["image"] if "image" in batch else decoded(context, batch["tokens"], batch.get(DECODER_TEXT))
