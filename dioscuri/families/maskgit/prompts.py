"""Prompts: texts that are encoded when a model is called, with the numbers that go with them (SDXL, Podell et
al. 2023, section 2.2)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from dioscuri.data.text_encoder import TextSource
from dioscuri.engine import Array
from dioscuri.errors import UserError, quoted
from dioscuri.face.text_reader import TextReader
from dioscuri.families.token_models.texts import skipped_layers
from dioscuri.inputs import to_array

NULL = "null."
"""Prefix of arrays that guidance compares with: the negative prompts' states."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Options of a call with prompts.

    `clip_skip` is the number of the text encoder's last layers that are skipped; None: as the model was
    trained. The others are micro-conditions of the pictures to draw: the `size` (width, height) of the
    originals, by default that of the model's pictures, the upper left corner of the `crop` (top, left), and
    an `aesthetic_score`, in LAION's data from 0 to 10.
    """

    clip_skip: Any = None
    size: Any = None
    crop: Any = (0.0, 0.0)
    aesthetic_score: Any = 6.0

    def __post_init__(self) -> None:
        skip = self.clip_skip
        if skip is not None and (isinstance(skip, bool) or not isinstance(skip, int) or skip < 0):
            raise UserError(f"clip_skip must be a whole number of at least 0, not {quoted(skip)}")
        for name, low, shape in (("size", 1, (2,)), ("crop", 0, (2,)), ("aesthetic_score", 0, ())):
            value = getattr(self, name)
            if value is not None or name != "size":
                rule = f"{name} must be {'two numbers' if shape else 'a number'} of at least {low}"
                array = to_array(value, rule).astype(np.float64)
                if array.shape != shape or not np.isfinite(array).all() or (array < low).any():
                    raise UserError(f"{rule}, not {quoted(value)}")

    def micro(self, picture: tuple[int, int]) -> Array:
        """The micro-conditions float32 (5,) for pictures of (width, height)."""
        return np.array([*(self.size or picture), *self.crop, self.aesthetic_score], np.float32)


READING = tuple(option.name for option in fields(Reading))
"""Names of the options of a call with prompts."""


class PromptReader(TextReader):
    """The text encoder of a model of texts.

    A model with a pooled state (MUSE, aMUSEd, MaskGen) reads CLIP's last state but one. As published
    (`text_length` 0) it sees the padding, too, and guidance compares with the empty text; a model that was
    trained here on encoded captions gets their masks, which `data.attend_padding` drops again, and guidance
    compares with what its training did.
    """

    def __init__(self, source: TextSource, hparams: Any, conditions: Sequence[str]) -> None:
        model, length, has_pooled = hparams.model, hparams.data.text_length, "pooled" in conditions
        widths = {"text": model.encoder_hidden_size}
        super().__init__(source, length, widths | ({"pooled": model.cond_embed_dim} if has_pooled else {}))
        self.clip_skip = skipped_layers(hparams, conditions)
        self.as_published = has_pooled and not length

    def __call__(self, texts: Sequence[str], clip_skip: int | None, device: Any) -> dict[str, Array]:
        """`text` (N, S, E) and, if the model takes them, `text_mask` (N, S) and `pooled` (N, P)."""
        encoder = self._open(device)
        self.tell_cuts(texts, device)
        layer = -1 - (self.clip_skip if clip_skip is None else clip_skip)
        if layer < -encoder.depth:
            raise UserError(f"clip_skip must be at most {encoder.depth - 1}, not {clip_skip}")
        rows = self.states(texts, layer, device)
        return {name: rows[name] for name in rows if name != "text_mask" or not self.as_published}


def encode_prompts(
    reader: PromptReader,
    prompts: tuple[Sequence[str], Sequence[str] | None],
    clip_skip: int | None,
    device: Any,
) -> dict[str, Array]:
    """Conditions of N prompts and, with N negative ones, what guidance compares with, `null.<name>`."""
    texts, negative = prompts
    if negative is None and reader.as_published:
        negative = [""] * len(texts)
    distinct = list(dict.fromkeys([*texts, *(negative or ())]))
    states = reader(distinct, clip_skip, device)

    def rows(chosen: Sequence[str], prefix: str = "") -> dict[str, Array]:
        places = [distinct.index(text) for text in chosen]
        return {prefix + name: array[places] for name, array in states.items()}

    return rows(texts) | (rows(negative, NULL) if negative is not None else {})


def reading_of(options: Mapping[str, Any], call: str) -> Reading:
    """Options of a call with prompts; a `UserError` begins with the call's name."""
    try:
        return Reading(**options)
    except UserError as error:
        raise UserError(f"{call}: {error}") from error
