"""Pictures with captions that a text encoder encodes while a model trains."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from tqdm import tqdm

from dioscuri.data.annotations import Annotation
from dioscuri.data.caption_cache import CaptionCache
from dioscuri.data.captions import N_MICRO
from dioscuri.data.facts import AESTHETIC, number, original_size
from dioscuri.data.picture_set import PictureSet
from dioscuri.errors import UserError

Array = np.ndarray

_AT_ONCE = 64


class Captions:
    """The encoded captions of N pictures, of which each has at least one, and micro-conditions."""

    def __init__(
        self, captions: Sequence[Sequence[str]], cache: CaptionCache, micro: "MicroConditions | None" = None
    ) -> None:
        self._captions, self._cache, self._micro = captions, cache, micro
        self.shapes: dict[str, tuple[int, ...]] = {
            name: row.shape[1:] for name, row in cache.null().items()
        } | ({} if micro is None else {"micro": (N_MICRO,)})

    def __len__(self) -> int:
        return len(self._captions)

    def chosen(self, indices: Sequence[int] | Array, words: Array | None = None) -> list[str]:
        """A caption of each picture at `indices` (B,): its first, or one chosen by random `words` (B,)."""
        several = [self._captions[int(index)] for index in indices]
        picks = [0] * len(several) if words is None else words.tolist()
        return [captions[pick % len(captions)] for captions, pick in zip(several, picks, strict=True)]

    def gather(
        self, indices: Sequence[int] | Array, words: Array | None = None, places: Array | None = None
    ) -> dict[str, Array]:
        """Arrays (B, ...) of the captions of pictures: float32, the mask bool; see `dioscuri.data.texts`."""
        states = self._cache(self.chosen(indices, words))
        return (
            states if self._micro is None else {**states, "micro": self._micro(np.asarray(indices), places)}
        )


class MicroConditions:
    """Five numbers of each picture: original width and height, top and left of what is read of it, aesthetic
    score (SDXL, Podell et al. 2023, section 2.2). The original size is that of the file unless the data set
    tells another."""

    def __init__(
        self, annotations: Sequence[Annotation], placed: Callable[[Array, Array | None], Array], score: float
    ) -> None:
        unknown = (np.nan, np.nan)
        self._placed = placed
        self._sizes = np.array([original_size(a.facts) or unknown for a in annotations], np.float32)
        scores = [number(a.facts, AESTHETIC) for a in annotations]
        self._scores = np.array([score if value is None else value for value in scores], np.float32)
        self.without_score = scores.count(None)

    def __call__(self, indices: Array, places: Array | None) -> Array:
        """float32 (B, 5)."""
        seen = self._placed(indices, places).astype(np.float32)
        told = self._sizes[indices]
        sizes = np.where(np.isnan(told), seen[:, :2], told)
        return np.concatenate([sizes, seen[:, 2:], self._scores[indices, None]], 1)


def with_captions(pictures: PictureSet, cache: CaptionCache, where: str) -> PictureSet:
    """The pictures with their captions' states; a `UserError` that begins with `where` if one has none."""
    if pictures.annotate is None:
        raise UserError(
            f"{where}: captions of '{pictures.name}' are not read: use dataset_source 'custom', 'glob' or "
            "'webdataset'"
        )
    annotations = pictures.annotate()
    captions = [annotation.captions for annotation in annotations]
    if lacking := [key for key, texts in zip(pictures.keys, captions, strict=True) if not texts]:
        raise UserError(
            f"{where}: {len(lacking)} of {len(captions)} pictures have no caption, such as '{lacking[0]}': "
            "write it to a .txt file next to the picture, or to metadata.jsonl"
        )
    every = [text for texts in captions for text in texts]
    notes, micro = [*_empty(every), *_encode(every, cache)], None
    if cache.source.micro and pictures.placed is not None:
        score = cache.source.aesthetic_score
        micro = MicroConditions(annotations, pictures.placed, score)
        if micro.without_score:
            count = f"{micro.without_score} of {len(captions)} pictures"
            notes.append(f"{count} have no aesthetic score: they get {score:g} (data.aesthetic_score)")
    return replace(pictures, texts=Captions(captions, cache, micro), notes=(*pictures.notes, *notes))


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
