"""Texts that are encoded when a model is called."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dioscuri.data.annotations import is_unicode
from dioscuri.data.text_encoder import TextEncoder, TextSource
from dioscuri.engine import Array
from dioscuri.errors import UserError, kind_of

ENCODED_AT_ONCE = 64


class TextReader:
    """A model's text encoder, opened when the first text is read.

    `length` is the number of tokens of a text, 0: as many as the encoder reads. `widths` are those of the
    arrays that the model takes: `text` and, if it reads that, `pooled`.
    """

    def __init__(self, source: TextSource, length: int, widths: Mapping[str, int]) -> None:
        self.source, self.length, self.widths = source, length, widths
        self._encoder: TextEncoder | None = None

    def states(self, texts: Sequence[str], layer: int, device: Any) -> dict[str, Array]:
        """`text` (N, S, E), a hidden state counted from the end, `text_mask` (N, S) and, if the model takes
        it, `pooled` (N, P)."""
        encoder = self._open(device)
        batches = [
            encoder(texts[first : first + ENCODED_AT_ONCE], layer)
            for first in range(0, len(texts), ENCODED_AT_ONCE)
        ]
        rows = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
        for name, width in self.widths.items():
            if rows[name].shape[-1] != width:
                raise UserError(
                    f"text encoder {self.source.encoder} makes '{name}' of width {rows[name].shape[-1]}, the "
                    f"model takes {width}: give another text_encoder"
                )
        return rows

    def tell_cuts(self, texts: Sequence[str], device: Any) -> None:
        """Warn of each text that is longer than the encoder reads."""
        encoder = self._open(device)
        for text, count in zip(texts, encoder.token_counts(texts), strict=True):
            if count > encoder.length:
                cut = f"the last {count - encoder.length} are cut, the text encoder reads {encoder.length}"
                warnings.warn(f"prompt '{text[:40]}...' has {count} tokens: {cut}", stacklevel=6)

    def save(self, folder: Path, device: Any) -> None:
        """Write the encoder and its tokenizer to a folder, unless they lie there."""
        if not (
            Path(self.source.encoder).is_dir() and folder.is_dir() and folder.samefile(self.source.encoder)
        ):
            self._open(device).save(folder)

    def _open(self, device: Any) -> TextEncoder:
        if self._encoder is None:
            self._encoder = TextEncoder(
                self.source.encoder,
                tokenizer=self.source.tokenizer,
                length=self.length,
                layer=-1,
                pooled="pooled" in self.widths,
                device=device,
            )
        return self._encoder.to(device)


def read_texts(given: Any, what: str, *, n: int | None = None, empty: bool = False) -> list[str]:
    """Texts as n of them, or as many as there are; one may serve for all. `empty`: texts may be empty.

    A `UserError` says what is wrong.
    """
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list | tuple) or not texts or not all(isinstance(text, str) for text in texts):
        kind = "an empty list" if given in ([], ()) else kind_of(given)
        raise UserError(f"{what} must be a text or a list of texts; got {kind}")
    for number, text in enumerate(texts, 1):
        if not empty and not text.strip():
            raise UserError(f"{what}: text {number} is empty: say what to draw")
        if not is_unicode(text):
            raise UserError(f"{what}: text {number} is not Unicode: write it as UTF-8")
    if n is not None and len(texts) not in (1, n):
        raise UserError(f"{what} holds {len(texts)} texts for {n} pictures: give {n}, or one for all")
    return list(texts) * (n or 1) if len(texts) == 1 else list(texts)
