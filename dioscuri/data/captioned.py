"""Pictures with captions that a text encoder encodes while a model trains."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from tqdm import tqdm

from dioscuri.data.caption_cache import CaptionCache
from dioscuri.data.picture_set import PictureSet
from dioscuri.errors import UserError

Array = np.ndarray

_AT_ONCE = 64


class Captions:
    """The encoded captions of N pictures, of which each has at least one."""

    def __init__(self, captions: Sequence[Sequence[str]], cache: CaptionCache) -> None:
        self._captions, self._cache = captions, cache
        self.null = cache.null()
        self.shapes: dict[str, tuple[int, ...]] = {name: row.shape[1:] for name, row in self.null.items()}

    def __len__(self) -> int:
        return len(self._captions)

    def chosen(self, indices: Sequence[int] | Array, words: Array | None = None) -> list[str]:
        """A caption of each picture at `indices` (B,): its first, or one chosen by random `words` (B,)."""
        several = [self._captions[int(index)] for index in indices]
        picks = [0] * len(several) if words is None else words.tolist()
        return [captions[pick % len(captions)] for captions, pick in zip(several, picks, strict=True)]

    def gather(self, indices: Sequence[int] | Array, words: Array | None = None) -> dict[str, Array]:
        """Arrays (B, ...) of the captions of pictures: float32, the mask bool."""
        return self._cache(self.chosen(indices, words))


def with_captions(pictures: PictureSet, cache: CaptionCache, where: str) -> PictureSet:
    """The pictures with their captions' states; a `UserError` that begins with `where` if one has none."""
    if pictures.annotate is None:
        raise UserError(
            f"{where}: captions of '{pictures.name}' are not read: use dataset_source 'custom', 'glob' or "
            "'webdataset'"
        )
    captions = [annotation.captions for annotation in pictures.annotate()]
    if lacking := [key for key, texts in zip(pictures.keys, captions, strict=True) if not texts]:
        raise UserError(
            f"{where}: {len(lacking)} of {len(captions)} pictures have no caption, such as '{lacking[0]}': "
            "write it to a .txt file next to the picture, or to metadata.jsonl"
        )
    every = [text for texts in captions for text in texts]
    notes = (*_empty(every), *_encode(every, cache))
    return replace(pictures, texts=Captions(captions, cache), notes=(*pictures.notes, *notes))


def _empty(captions: Sequence[str]) -> list[str]:
    count = captions.count("")
    return [f"{count} of {len(captions)} captions are empty: trained as the empty text"] if count else []


def _encode(captions: Sequence[str], cache: CaptionCache) -> list[str]:
    """Encode what the cache lacks if that is to be done first; a note about captions that are cut."""
    lacking, length = cache.lacking(captions), cache.source.length
    if not lacking:
        return []
    longer = [count for count in cache.token_counts(lacking) if count > length]
    if cache.source.encode_first:
        for first in tqdm(range(0, len(lacking), _AT_ONCE), "captions", unit="batch", disable=None):
            cache(lacking[first : first + _AT_ONCE])
    if not longer:
        return []
    what = f"{len(longer)} of {len(lacking)} new captions have more than {length} tokens (data.text_length)"
    return [f"{what}, up to {max(longer)}: the rest is cut"]
